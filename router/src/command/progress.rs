//! A moving line for what takes longer than people wait without a word. On a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

/// What is done within this shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// The moving line moves this often.
const TICK: Duration = Duration::from_millis(100);
/// How the moving line looks.
const TEMPLATE: &str = "{spinner} {wide_msg} {elapsed}";

/// Does `work`, and shows `what` it is about on standard error while it takes long. `detail` is asked once a second for
/// words on where it stands.
pub(crate) async fn shown<T>(
    what: &str,
    detail: impl AsyncFn() -> Option<String>,
    work: impl Future<Output = T>,
) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    // The template is a constant that a test checks; without it the default line is shown.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    let done = tokio::select! {
        done = &mut work => done,
        never = update(&bar, what, detail) => match never {},
    };
    bar.finish_and_clear();
    done
}

/// Shows where things stand, until it is dropped.
async fn update(bar: &ProgressBar, what: &str, detail: impl AsyncFn() -> Option<String>) -> Infallible {
    let mut interval = tokio::time::interval(PATIENCE);
    loop {
        interval.tick().await;
        if let Some(detail) = detail().await {
            bar.set_message(format!("{what}: {detail}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::ProgressDrawTarget;
    use std::cell::Cell;

    #[test]
    fn the_template_is_well_formed() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[tokio::test]
    async fn the_line_says_where_things_stand() {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let asked = Cell::new(false);
        let detail = async || {
            asked.set(true);
            Some("b does not answer".to_owned())
        };
        let is_shown = async {
            while !asked.get() {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        };
        tokio::select! {
            never = update(&bar, "waiting", detail) => match never {},
            () = is_shown => {}
        }
        assert_eq!(bar.message(), "waiting: b does not answer");
    }
}
