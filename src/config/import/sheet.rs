//! Settings as they were read, each with its place, and what becomes of it.

use std::cell::RefCell;

use super::super::load::Source;

/// A setting that was not carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The section, where the form has any.
    pub section: String,
    /// The key; never its value, which may be a secret.
    pub key: String,
    /// Why.
    pub why: String,
}

/// A setting.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) file: usize,
    pub(super) line: usize,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// What became of a setting.
#[derive(Clone, Debug)]
enum Fate {
    /// Nobody has looked at it.
    Unseen,
    /// It was carried over.
    Taken,
    /// It was not, and why.
    Told(String),
}

/// All of them, and which were carried over or told of.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) settings: Vec<Setting>,
    fates: RefCell<Vec<Fate>>,
}

impl Sheet {
    pub(super) fn new(settings: Vec<Setting>) -> Self {
        let fates = RefCell::new(vec![Fate::Unseen; settings.len()]);
        Self { settings, fates }
    }

    /// The names of sections, in the order in which they begin.
    pub(super) fn sections(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for setting in &self.settings {
            if !names.contains(&setting.section.as_str()) {
                names.push(&setting.section);
            }
        }
        names
    }

    fn place(&self, section: &str, key: &str) -> Option<usize> {
        let is_it = |one: &Setting| one.section == section && one.key == key;
        self.settings.iter().rposition(is_it)
    }

    /// A value of the first section that has one, without saying what becomes of it.
    pub(super) fn see(&self, sections: &[&str], key: &str) -> Option<&str> {
        let place = sections.iter().find_map(|section| self.place(section, key))?;
        Some(&self.settings[place].value)
    }

    /// The same, which is carried over.
    pub(super) fn take(&self, sections: &[&str], key: &str) -> Option<&str> {
        let place = sections.iter().find_map(|section| self.place(section, key))?;
        self.fates.borrow_mut()[place] = Fate::Taken;
        Some(&self.settings[place].value)
    }

    /// A value that is not carried over as it is, and why.
    pub(super) fn leave(&self, sections: &[&str], key: &str, why: &str) -> Option<&str> {
        let place = sections.iter().find_map(|section| self.place(section, key))?;
        self.fates.borrow_mut()[place] = Fate::Told(why.to_owned());
        Some(&self.settings[place].value)
    }

    /// Everything that was not carried over; of what nobody looked at, `why` says why.
    pub(super) fn left(&self, sources: &[Source], why: impl Fn(&Setting) -> String) -> Vec<Left> {
        let fates = self.fates.borrow();
        let left = self.settings.iter().zip(&*fates).filter_map(|(setting, fate)| {
            let why = match fate {
                Fate::Taken => return None,
                Fate::Told(why) => why.clone(),
                Fate::Unseen => why(setting),
            };
            let file = sources.get(setting.file).map(|source| source.path.clone());
            Some(Left {
                file: file.unwrap_or_default(),
                line: setting.line,
                section: setting.section.clone(),
                key: setting.key.clone(),
                why,
            })
        });
        left.collect()
    }
}
