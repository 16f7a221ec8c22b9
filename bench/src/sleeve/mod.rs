//! Pod to pod, on two hosts that are namespaces of this machine: what weft carries, at what cost, and what the kernel's
//! VXLAN and other tunnels do on the same machine in the same run.
//!
//! | module | what it holds |
//! |---|---|
//! | `contender` | two pods that something connects, and what is measured between them |
//! | `contenders` | weft, kernel VXLAN, the naive yardstick, wireguard-go, vpncloud: each builds one |
//! | `gate` | waits for an idle machine |
//! | `processors` | processor time of the whole machine |
//! | `iperf` | `iperf3` and what it reports |
//! | `rows` | the rows: which contenders, what is measured, which ratios are goals |
//!
//! A new row is a function in `rows` and one more entry in its list.

mod contender;
mod contenders;
mod gate;
mod iperf;
mod processors;
mod rows;

use crate::area::{Measured, Plan};
use crate::figure::Figure;
use anyhow::{Context, bail};
use contender::Contender;
use contenders::Kind;
use gate::{Gate, Idle};
use rows::relay::Chain;
use rows::{ROWS, Row};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use weft_lab::Lab;

/// The signals that end a measurement in good order.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether nothing is measured now. A handler cannot be taken back to what was before it, so there is one flag for all.
static DONE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// What the area is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the rows; all when none is named.
    pub rows: Vec<String>,
    /// The `weft` program; where cargo puts it when none is named.
    pub weft: Option<PathBuf>,
    /// Further arguments of `weft up`.
    pub up: Vec<String>,
    /// The naive yardstick.
    pub naive: PathBuf,
    /// An engine in a process of its own, whose memory is measured.
    pub engine_memory: PathBuf,
    /// How long each transfer takes, in seconds.
    pub seconds: u32,
    /// How long a busy machine is waited for.
    pub patience: Duration,
    /// Measure on a busy machine too, and say so.
    pub anyway: bool,
}

/// A signal ended it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: every namespace, process and file of the measurement is removed")]
pub struct Interrupted;

/// Names of the rows, in the order in which they are measured.
#[must_use]
pub fn row_names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Rows and what each measures.
#[must_use]
pub fn row_list() -> Vec<(&'static str, &'static str)> {
    ROWS.iter().map(|row| (row.name, row.about)).collect()
}

/// The Ethernet address that leads to a peer of the row `memory`.
#[must_use]
pub fn peer_mac(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    // Locally administered, and of no cluster.
    [0x06, 0, 0, 0, high, low]
}

/// Where everything is measured.
struct Stand {
    contenders: BTreeMap<Kind, Contender>,
    /// From the first round of the row that needs it.
    chain: Option<Chain>,
    gate: Gate,
    lab: Lab,
    options: Options,
    notes: Vec<String>,
}

/// Measures the rows that the plan names.
///
/// # Errors
/// When root or a program is missing, a row is unknown, the machine stays busy, or a contender carries nothing.
/// [`Interrupted`] after a signal.
pub fn measure(plan: &Plan) -> anyhow::Result<Measured> {
    let options = &plan.sleeve;
    let rows = select(&options.rows)?;
    if !rustix::process::geteuid().is_root() {
        bail!("the area sleeve makes network namespaces: run it as root");
    }
    iperf::find()?;
    let lab = match &options.weft {
        Some(program) => Lab::with_program("bench", program),
        None => Lab::new("bench"),
    }?;
    let interrupt = lab.interrupt();
    let done = DONE.get_or_init(|| Arc::new(AtomicBool::new(true)));
    let mut handlers = Vec::new();
    for signal in SIGNALS {
        // While nothing is measured, a signal does what it does without us.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(done))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt)))
            .map(|handler| handlers.push(handler))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    done.store(false, Ordering::Relaxed);
    // From here on, returning, failing and panicking all drop the lab and what was made in it.
    let measured = measure_rows(lab, plan, &rows);
    done.store(true, Ordering::Relaxed);
    for handler in handlers {
        signal_hook::low_level::unregister(handler);
    }
    if interrupt.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    measured
}

fn select(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    if let Some(unknown) = names.iter().find(|name| !row_names().contains(&name.as_str())) {
        bail!(
            "the area sleeve has no row {unknown:?}; its rows are: {}",
            row_names().join(", ")
        );
    }
    let named = |row: &&Row| names.is_empty() || names.iter().any(|name| name == row.name);
    Ok(ROWS.iter().filter(named).collect())
}

fn measure_rows(lab: Lab, plan: &Plan, rows: &[&Row]) -> anyhow::Result<Measured> {
    let options = &plan.sleeve;
    let mut stand = Stand {
        contenders: BTreeMap::new(),
        gate: Gate::new(options.patience, options.anyway, lab.interrupt()),
        chain: None,
        lab,
        options: options.clone(),
        notes: Vec::new(),
    };
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| rows.iter().any(|row| row.contenders.contains(kind)));
    for kind in kinds {
        eprintln!("  building {}", kind.label());
        match kind.build(&stand.lab, options) {
            Ok((contender, notes)) => {
                stand.contenders.insert(kind, contender);
                stand.notes.extend(notes);
            }
            Err(contenders::Failure::Missing(sentence)) => stand.notes.push(sentence),
            Err(contenders::Failure::Failed(error)) => return Err(error.context(kind.label())),
        }
    }
    let mut figures = Vec::new();
    for row in rows {
        eprintln!("  {}: {}", row.name, row.about);
        let figures_of_row = stand
            .measure(row, plan.runs)
            .with_context(|| format!("row {}", row.name))?;
        figures.extend(figures_of_row);
    }
    let mut notes = stand.gate.notes();
    notes.append(&mut stand.notes);
    Ok(Measured { figures, notes })
}

impl Stand {
    fn measure(&mut self, row: &Row, runs: usize) -> anyhow::Result<Vec<Figure>> {
        let mut rounds = Vec::new();
        for round in 0..runs {
            rounds.push((row.round)(self, round)?);
        }
        Ok(Figure::of_runs(&rounds))
    }

    /// Measures those of these contenders that are there, one after the other, each on an idle machine. Every round
    /// begins with another one.
    fn each<T>(
        &mut self,
        kinds: &[Kind],
        round: usize,
        mut measure: impl FnMut(&Contender, &Idle) -> anyhow::Result<T>,
    ) -> anyhow::Result<BTreeMap<Kind, T>> {
        let mut results = BTreeMap::new();
        let there: Vec<Kind> = kinds
            .iter()
            .copied()
            .filter(|kind| self.contenders.contains_key(kind))
            .collect();
        for at in 0..there.len() {
            let kind = there[(at + round) % there.len()];
            if let Some(contender) = self.contenders.get(&kind) {
                let idle = self.gate.pass()?;
                results.insert(kind, measure(contender, &idle).context(kind.label())?);
            }
        }
        Ok(results)
    }

    /// Measures while the underlays of these contenders cut nothing for their hosts.
    fn cut<T>(
        &mut self,
        kinds: &[Kind],
        measure: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.for_each_of(kinds, Contender::cut)?;
        let measured = measure(self)?;
        self.for_each_of(kinds, Contender::uncut)?;
        Ok(measured)
    }

    fn for_each_of(
        &mut self,
        kinds: &[Kind],
        change: fn(&mut Contender) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let contenders = self.contenders.iter_mut();
        for (_, contender) in contenders.filter(|(kind, _)| kinds.contains(kind)) {
            change(contender)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_name_and_an_unknown_one_lists_all() {
        assert_eq!(select(&[]).unwrap().len(), ROWS.len());
        let named = select(&["tcp".into()]).unwrap();
        assert_eq!(named.iter().map(|row| row.name).collect::<Vec<_>>(), ["tcp"]);
        let refusal = select(&["nothing".into()]).err().unwrap().to_string();
        for name in row_names() {
            assert!(refusal.contains(name), "{refusal}");
        }
    }
}
