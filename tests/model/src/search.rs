//! Runs a search, says how large it was, and prints the shortest counter-example.

use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A model whose steps can be told to people.
pub trait Told: Model {
    /// What happens in this step, as a sentence without its full stop.
    fn tell(&self, before: &Self::State, action: &Self::Action) -> String;
}

/// Lets a property fail once only.
///
/// The checker keeps the last violation that it meets within a block of states. The search goes from the short to
/// the long, so the first one is the shortest.
#[derive(Default)]
pub struct First(AtomicBool);

impl First {
    /// `holds`, or true when it has been false before.
    pub fn check(&self, holds: bool) -> bool {
        holds || self.0.swap(true, Ordering::Relaxed)
    }
}

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps from the start to the furthest of them.
    pub depth: usize,
    /// True when every state that can be reached was visited, false when the search was bounded.
    pub is_exhausted: bool,
    /// Broken properties, each with the shortest way there.
    pub broken: BTreeMap<&'static str, Vec<String>>,
    /// Situations that should be possible and were met, each with the shortest way there.
    pub met: BTreeMap<&'static str, Vec<String>>,
    /// Situations that should be possible and were not met.
    pub unmet: Vec<&'static str>,
    /// How long it took.
    pub took: Duration,
}

impl Found {
    /// Demands that everything held and everything that should be possible was met.
    ///
    /// # Panics
    /// It was not so; the message has the steps.
    pub fn must_hold(&self) {
        assert!(self.broken.is_empty(), "{}", self.story());
        assert!(self.unmet.is_empty(), "never met: {}", self.unmet.join(", "));
    }

    /// Demands that this property was broken, and gives back the steps.
    ///
    /// # Panics
    /// It held, so the checker would not notice the fault either.
    pub fn must_break(&self, property: &str) -> &[String] {
        let steps = self.broken.get(property);
        steps.unwrap_or_else(|| panic!("«{property}» held over {} states", self.states))
    }

    /// The counter-examples, for people.
    pub fn story(&self) -> String {
        tell("not true", &self.broken)
    }

    /// How one gets to what should be possible, for people.
    pub fn examples(&self) -> String {
        tell("met", &self.met)
    }
}

fn tell(what: &str, stories: &BTreeMap<&'static str, Vec<String>>) -> String {
    let mut text = String::new();
    for (property, steps) in stories {
        let _ = writeln!(text, "{what}: «{property}», after {} steps:", steps.len());
        for (at, step) in steps.iter().enumerate() {
            let _ = writeln!(text, "  {}. {step}", at + 1);
        }
    }
    text
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// To the end.
    None,
    /// So many steps from the start.
    Steps(usize),
}

/// Searches breadth first on one thread, so that what is found first is shortest; prints the figures.
pub fn search<M>(name: &str, model: M, bound: Bound) -> Found
where
    M: Told + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + 'static,
    M::Action: Clone + PartialEq,
{
    let started = Instant::now();
    let properties: Vec<(&'static str, Expectation)> = model
        .properties()
        .into_iter()
        .map(|property| (property.name, property.expectation))
        .collect();
    let builder = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let builder = match bound {
        Bound::None => builder,
        // The checker counts states, of which there is one more than steps.
        Bound::Steps(steps) => builder.target_max_depth(steps + 1),
    };
    let checker = builder.spawn_bfs().join();
    let (mut broken, mut met) = (BTreeMap::new(), BTreeMap::new());
    for (property, path) in checker.discoveries() {
        let is_failure = |(name, kind): &(_, Expectation)| *name == property && kind.discovery_is_failure();
        let steps = path.into_vec();
        let told = steps.iter().filter_map(|(state, action)| {
            let action = action.as_ref()?;
            Some(checker.model().tell(state, action))
        });
        let list = if properties.iter().any(is_failure) {
            &mut broken
        } else {
            &mut met
        };
        list.insert(property, told.collect());
    }
    let is_unmet = |(name, kind): &(_, Expectation)| {
        *kind == Expectation::Sometimes && !met.contains_key(name) && broken.is_empty()
    };
    let unmet = Vec::from_iter(properties.into_iter().filter(is_unmet));
    let depth = checker.max_depth().saturating_sub(1);
    let found = Found {
        states: checker.unique_state_count(),
        depth,
        is_exhausted: broken.is_empty() && !matches!(bound, Bound::Steps(steps) if depth >= steps),
        unmet: unmet.into_iter().map(|(name, _)| name).collect(),
        met,
        broken,
        took: started.elapsed(),
    };
    let how = match (found.broken.is_empty(), found.is_exhausted) {
        (false, _) => "stopped at the first fault",
        (true, true) => "exhausted",
        (true, false) => "bounded",
    };
    println!(
        "{name}: {} states, {} steps deep, {how}, {:.1} s",
        found.states,
        found.depth,
        found.took.as_secs_f64()
    );
    print!("{}", found.story());
    found
}
