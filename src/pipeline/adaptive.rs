//! The zstd level that keeps processor and output equally busy.

use std::time::Duration;

use super::compress::Level;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How full the queue of packs waiting for upload is, from 0 to 1.
    pub output_fill: f32,
    /// How full the queue of chunks waiting for a worker is, from 0 to 1.
    pub work_fill: f32,
    /// The share of workers that have nothing to do, from 0 to 1.
    pub idle: f32,
}

/// Chooses the level of the next chunks from what was seen in the last window.
///
/// A pure state machine: it is told the time, and asked for the level.
///
/// - Output is the bottleneck (its queue stands full): compress harder, one level at a time.
/// - The workers are (chunks wait, output does not): 1, then -1, then -5.
/// - The source is (workers idle): return towards the default from below, for nothing is gained by
///   compressing less than there is time for.
#[derive(Clone, Debug)]
pub struct AdaptiveLevel {
    step: usize,
    step_max: usize,
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Duration,
    seen: Duration,
    sample: Sample,
    output_bound: Duration,
    work_bound: Duration,
    source_bound: Duration,
}

/// The levels in order; between them nothing is gained.
const LADDER: [i32; 11] = [-5, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const STEP_DEFAULT: usize = 2;
const STEP_MAX: usize = 7;
const STEP_ARCHIVE: usize = 10;

/// A decision is taken once per window.
const WINDOW: Duration = Duration::from_secs(5);
/// The share of the window for which a bottleneck must have been seen.
const SHARE_PERCENT: u32 = 70;
/// Time between two samples counts no longer than this: nothing is known about the rest.
const SAMPLE_MAX: Duration = Duration::from_secs(1);
const FULL: f32 = 0.99;
const HALF: f32 = 0.5;

impl AdaptiveLevel {
    /// Starts at the default level and stays between -5 and 6.
    pub fn new() -> Self {
        Self { step: STEP_DEFAULT, step_max: STEP_MAX, window: None }
    }

    /// Starts at the default level and may go up to 9.
    pub fn archive() -> Self {
        Self { step_max: STEP_ARCHIVE, ..Self::new() }
    }

    /// The level to use now.
    pub fn level(&self) -> Level {
        Level::clamped(LADDER[self.step])
    }

    /// Tells what is seen at `now`, a time that never steps backwards, and returns the level to
    /// use from here on.
    pub fn observe(&mut self, now: Duration, sample: Sample) -> Level {
        let window = self.window.get_or_insert_with(|| Window::starting(now, sample));
        window.account(now, sample);
        if now.saturating_sub(window.began) >= WINDOW {
            let verdict = window.verdict();
            *window = Window::starting(now, sample);
            self.act(verdict);
        }
        self.level()
    }

    fn act(&mut self, verdict: Option<Bottleneck>) {
        match verdict {
            Some(Bottleneck::Output) => self.step = (self.step + 1).min(self.step_max),
            Some(Bottleneck::Work) if self.step > STEP_DEFAULT => self.step = STEP_DEFAULT,
            Some(Bottleneck::Work) => self.step = self.step.saturating_sub(1),
            Some(Bottleneck::Source) => {
                self.step = self.step.max((self.step + 1).min(STEP_DEFAULT));
            }
            None => {}
        }
    }
}

impl Default for AdaptiveLevel {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy)]
enum Bottleneck {
    Output,
    Work,
    Source,
}

impl Sample {
    fn bottleneck(&self) -> Option<Bottleneck> {
        if self.output_fill >= FULL {
            Some(Bottleneck::Output)
        } else if self.work_fill >= FULL && self.output_fill < HALF {
            Some(Bottleneck::Work)
        } else if self.idle >= HALF && self.work_fill < HALF {
            Some(Bottleneck::Source)
        } else {
            None
        }
    }
}

impl Window {
    fn starting(now: Duration, sample: Sample) -> Self {
        Self {
            began: now,
            seen: now,
            sample,
            output_bound: Duration::ZERO,
            work_bound: Duration::ZERO,
            source_bound: Duration::ZERO,
        }
    }

    /// Counts the time since the last sample as spent in the state that was seen then.
    fn account(&mut self, now: Duration, sample: Sample) {
        let spent = now.saturating_sub(self.seen).min(SAMPLE_MAX);
        match self.sample.bottleneck() {
            Some(Bottleneck::Output) => self.output_bound += spent,
            Some(Bottleneck::Work) => self.work_bound += spent,
            Some(Bottleneck::Source) => self.source_bound += spent,
            None => {}
        }
        self.seen = now;
        self.sample = sample;
    }

    fn verdict(&self) -> Option<Bottleneck> {
        let enough = WINDOW * SHARE_PERCENT / 100;
        if self.output_bound > enough {
            Some(Bottleneck::Output)
        } else if self.work_bound > enough {
            Some(Bottleneck::Work)
        } else if self.source_bound > enough {
            Some(Bottleneck::Source)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: Sample = Sample { output_fill: 1.0, work_fill: 1.0, idle: 0.0 };
    const WORK: Sample = Sample { output_fill: 0.1, work_fill: 1.0, idle: 0.0 };
    const SOURCE: Sample = Sample { output_fill: 0.0, work_fill: 0.0, idle: 0.9 };
    const CALM: Sample = Sample { output_fill: 0.6, work_fill: 0.6, idle: 0.1 };

    /// Shows each sample for as many seconds as it says, ten times a second.
    fn levels(mut adaptive: AdaptiveLevel, story: &[(u64, Sample)]) -> Vec<i32> {
        let (mut now, mut levels) = (Duration::ZERO, vec![adaptive.level().number()]);
        for &(seconds, sample) in story {
            for _ in 0..seconds * 10 {
                let level = adaptive.observe(now, sample).number();
                if levels.last() != Some(&level) {
                    levels.push(level);
                }
                now += Duration::from_millis(100);
            }
        }
        levels
    }

    #[test]
    fn a_slow_output_raises_the_level_to_its_limit() {
        assert_eq!(levels(AdaptiveLevel::new(), &[(60, OUTPUT)]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(levels(AdaptiveLevel::archive(), &[(60, OUTPUT)]), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn busy_workers_lower_the_level_at_once_to_the_default_and_then_below() {
        let story = [(30, OUTPUT), (60, WORK)];
        assert_eq!(levels(AdaptiveLevel::new(), &story), [1, 2, 3, 4, 5, 6, 1, -1, -5]);
    }

    #[test]
    fn idle_workers_bring_the_level_back_to_the_default_and_no_further() {
        assert_eq!(levels(AdaptiveLevel::new(), &[(60, WORK), (60, SOURCE)]), [1, -1, -5, -1, 1]);
        assert_eq!(levels(AdaptiveLevel::new(), &[(12, OUTPUT), (60, SOURCE)]), [1, 2, 3]);
    }

    #[test]
    fn a_moment_decides_nothing() {
        let moments: Vec<_> = (0..20).flat_map(|_| [(3, OUTPUT), (2, CALM)]).collect();
        assert_eq!(levels(AdaptiveLevel::new(), &moments), [1]);
        let mut adaptive = AdaptiveLevel::new();
        adaptive.observe(Duration::ZERO, OUTPUT);
        let level = adaptive.observe(Duration::from_hours(1), OUTPUT);
        assert_eq!(level, Level::DEFAULT, "one sample an hour ago says nothing about the hour");
    }
}
