//! The choices of a test run: all of them one after the other, or drawn from a seed.

use std::fmt;

use super::Dice;

/// Picks among alternatives, and remembers what it picked so that a run can be repeated.
///
/// A run must be determined by its picks. Call [`advance`](Self::advance) between runs.
#[derive(Debug)]
pub struct Schedule {
    picks: Vec<Pick>,
    made: usize,
    dice: Option<Dice>,
}

#[derive(Clone, Copy, Debug)]
struct Pick {
    chosen: usize,
    of: usize,
}

impl Schedule {
    /// Every sequence of picks, depth first. Their number grows fast: bound the run.
    pub fn exhaustive() -> Self {
        Self { picks: Vec::new(), made: 0, dice: None }
    }

    /// Random picks for as many runs as wanted.
    pub fn random(seed: u64) -> Self {
        Self { dice: Some(Dice::new(seed)), ..Self::exhaustive() }
    }

    /// Exactly these picks, as a failed run printed them, then always the first alternative.
    pub fn replay(picks: impl IntoIterator<Item = usize>) -> Self {
        let picks = picks.into_iter().map(|chosen| Pick { chosen, of: chosen + 1 }).collect();
        Self { picks, made: 0, dice: None }
    }

    /// One of `of` alternatives, as an index. Answers 0 when there is none.
    pub fn pick(&mut self, of: usize) -> usize {
        if self.made == self.picks.len() {
            let chosen = self.dice.as_ref().map_or(0, |dice| dice.below(of));
            self.picks.push(Pick { chosen, of });
        }
        let pick = &mut self.picks[self.made];
        pick.of = of;
        self.made += 1;
        pick.chosen
    }

    /// Prepares the next run. Answers whether there is one; random runs never end.
    pub fn advance(&mut self) -> bool {
        // What a shorter run did not reach is not a choice any more.
        self.picks.truncate(self.made);
        self.made = 0;
        if self.dice.is_some() {
            self.picks.clear();
            return true;
        }
        while let Some(last) = self.picks.last_mut() {
            last.chosen += 1;
            if last.chosen < last.of {
                return true;
            }
            self.picks.pop();
        }
        false
    }
}

/// The picks made so far, separated by commas.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pick) in self.picks[..self.made].iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{}", pick.chosen)?;
        }
        Ok(())
    }
}
