//! Nothing is measured on a busy machine.

use super::processors::Since;
use anyhow::bail;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weft_lab::Error;

/// The machine is idle when fewer processors than this are busy: one tick of `/proc/stat` in a window more than the
/// contenders' own idling.
const IDLE: f64 = 0.12;
/// How long it is watched for that.
const WINDOW: Duration = Duration::from_millis(200);
/// A wait that is worth a line.
const WORTH_SAYING: Duration = Duration::from_secs(2);

/// Waits for an idle machine.
pub(super) struct Gate {
    patience: Duration,
    /// Measure all the same when the patience is over.
    anyway: bool,
    interrupt: Arc<AtomicBool>,
    passed: usize,
    /// Of those, the ones on a busy machine.
    busy: usize,
    waited: Duration,
    busiest: f64,
}

/// The machine was idle, and this is what it did all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Processors that were busy.
    pub(super) processors: f64,
}

impl Gate {
    pub(super) fn new(patience: Duration, anyway: bool, interrupt: Arc<AtomicBool>) -> Self {
        Self {
            patience,
            anyway,
            interrupt,
            passed: 0,
            busy: 0,
            waited: Duration::ZERO,
            busiest: 0.0,
        }
    }

    /// Returns when the machine is idle.
    ///
    /// # Errors
    /// When it is not within the patience, with what to do; [`Error::Interrupted`].
    pub(super) fn pass(&mut self) -> anyhow::Result<Idle> {
        let begin = Instant::now();
        let mut told = false;
        loop {
            let since = Since::now()?;
            std::thread::sleep(WINDOW);
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted.into());
            }
            let processors = since.usage()?.processors();
            let waited = begin.elapsed().saturating_sub(WINDOW);
            let is_idle = processors <= IDLE;
            if is_idle || (self.anyway && waited >= self.patience) {
                self.passed += 1;
                self.busy += usize::from(!is_idle);
                self.waited += waited;
                self.busiest = self.busiest.max(processors);
                // What is more than idling is not the contenders' to be spared.
                let processors = processors.min(IDLE);
                return Ok(Idle { processors });
            }
            if waited >= self.patience {
                bail!(
                    "the machine is busy: something else uses {processors:.2} processors, and did for {} s. Figures \
                     would say little; end it and try again, wait longer with --patience, or measure with --anyway",
                    self.patience.as_secs()
                );
            }
            if waited >= WORTH_SAYING && !told {
                told = true;
                eprintln!(
                    "    waiting for an idle machine: {processors:.2} processors are busy with something else"
                );
            }
        }
    }

    /// What it did, in a sentence.
    pub(super) fn notes(&self) -> Vec<String> {
        if self.passed == 0 {
            return Vec::new();
        }
        let (passed, busiest, waited) = (self.passed, self.busiest, self.waited.as_secs_f64());
        let verdict = match self.busy {
            0 => format!("the machine was idle before each of {passed} measurements"),
            busy => {
                format!("the machine was BUSY before {busy} of {passed} measurements, so figures say little")
            }
        };
        let window = WINDOW.as_millis();
        vec![format!(
            "{verdict}: at most {busiest:.2} processors were busy in the {window} ms before; {waited:.0} s were waited for \
             that"
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_refused_with_a_sentence_and_a_signal_ends_the_wait() {
        let busy = Arc::new(AtomicBool::new(true));
        let interrupt = Arc::new(AtomicBool::new(false));
        let spinning = {
            let busy = Arc::clone(&busy);
            std::thread::spawn(move || while busy.load(Ordering::Relaxed) {})
        };
        let refusal = Gate::new(Duration::ZERO, false, Arc::clone(&interrupt)).pass();
        let mut patient = Gate::new(Duration::ZERO, true, Arc::clone(&interrupt));
        let measured = patient.pass().unwrap().processors;
        interrupt.store(true, Ordering::Relaxed);
        let interrupted = Gate::new(Duration::from_secs(60), false, interrupt).pass();
        busy.store(false, Ordering::Relaxed);
        spinning.join().unwrap();
        assert!(refusal.unwrap_err().to_string().contains("--patience"));
        assert_eq!(
            measured, IDLE,
            "what a busy machine does beyond idling is not taken off"
        );
        assert!(
            patient.notes()[0].contains("BUSY before 1 of 1"),
            "{:?}",
            patient.notes()
        );
        let error = interrupted.unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(Error::Interrupted)),
            "{error}"
        );
    }
}
