//! What is wrong with a configuration: all of it at once, each with the place where it was
//! written.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use stillpoint_contract::Code;

use super::{load::Source, tree::Spot};

/// Something wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its number.
    pub code: Code,
    /// Whether the configuration can be used all the same.
    pub is_warning: bool,
    /// What is wrong, in a few words.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
    spot: Option<Spot>,
    label: Option<String>,
    others: Vec<(Spot, &'static str)>,
}

impl Problem {
    pub(super) fn error(code: Code, spot: Spot, what: String) -> Self {
        let spot = Some(spot);
        Self { code, is_warning: false, what, help: None, spot, label: None, others: Vec::new() }
    }

    pub(super) fn warning(code: Code, spot: Spot, what: String) -> Self {
        Self { is_warning: true, ..Self::error(code, spot, what) }
    }

    /// Something that is nowhere.
    pub(super) fn lacking(code: Code, what: String) -> Self {
        let mut problem = Self::error(code, Spot { file: 0, bytes: 0..0 }, what);
        problem.spot = None;
        problem
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Another place that has to do with it.
    pub(super) fn beside(mut self, spot: Spot, why: &'static str) -> Self {
        self.others.push((spot, why));
        self
    }

    /// Problems in the order in which a person reads the files; warnings last.
    pub(super) fn order(&self) -> (bool, Option<(usize, usize)>) {
        (self.is_warning, self.spot.as_ref().map(|spot| (spot.file, spot.bytes.start)))
    }

    /// The file, the line and the column, counted from 1; nothing for what is nowhere.
    pub fn place<'a>(&self, sources: &'a [Source]) -> Option<(&'a str, usize, usize)> {
        let spot = self.spot.as_ref()?;
        let source = sources.get(spot.file)?;
        let before = source.text.get(..spot.bytes.start)?;
        let line = line_of(&source.text, spot.bytes.start);
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
        Some((&source.path, line, column))
    }

    /// As a compiler would show it.
    pub fn render(&self, sources: &[Source], with_colour: bool) -> String {
        let level = if self.is_warning { Level::WARNING } else { Level::ERROR };
        let title = level.primary_title(self.what.as_str());
        let code = self.code.to_string();
        let title = title.id(code.as_str());
        let mut group = Group::with_title(title);
        let mut spots: Vec<(&Spot, Option<&str>, bool)> = Vec::new();
        spots.extend(self.spot.iter().map(|spot| (spot, self.label.as_deref(), true)));
        spots.extend(self.others.iter().map(|(spot, why)| (spot, Some(*why), false)));
        for (file, source) in sources.iter().enumerate() {
            let here: Vec<_> = spots.iter().filter(|(spot, ..)| spot.file == file).collect();
            if here.is_empty() {
                continue;
            }
            let mut snippet = Snippet::source(source.text.as_str()).path(source.path.as_str());
            for (spot, label, is_first) in here {
                let kind =
                    if *is_first { AnnotationKind::Primary } else { AnnotationKind::Context };
                let length = source.text.len();
                let bytes = spot.bytes.start.min(length)..spot.bytes.end.min(length);
                let annotation = kind.span(bytes);
                let annotation = match *label {
                    Some(label) => annotation.label(label),
                    None => annotation,
                };
                snippet = snippet.annotation(annotation);
            }
            group = group.element(snippet);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if with_colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group]) + "\n"
    }
}

/// The line that a byte is in, counted from 1.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}

/// Near misses: the known word that differs least from one that is not known, if it is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let near = known.map(|known| (strsim::osa_distance(word, known), known));
    near.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_no_far_one() {
        let known = ["keep", "rpo", "rto", "blackout", "incremental"];
        let nearest = |word| nearest(word, known.into_iter());
        assert_eq!(nearest("kepe"), Some("keep"));
        assert_eq!(nearest("incremetnal"), Some("incremental"));
        assert_eq!(nearest("blackouts"), Some("blackout"));
        assert_eq!(nearest("retention"), None);
    }
}
