//! Whether the straight way in use still works: asked when what is sent there is not answered.
//!
//! Silence alone says nothing, since not all traffic is answered. So small probes are sent, which every peer answers to
//! where they came from: an answer proves both directions. When none comes, other ways are asked by initiations, and the
//! straight way as well; the first that answers is taken.

use crate::path_mtu::{PROBE_MIN, Probe};
use crate::timing::{QUESTION_PAUSE, QUESTIONS};
use weft_wire::Time;

/// What is thought of the straight way in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// What was sent there was answered, or nothing was sent.
    None,
    /// It was asked, and an answer is awaited.
    AwaitingAnswer(Question),
    /// It did not answer: a handshake on any way is awaited.
    AwaitingAnyWay,
}

/// A question under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    probe: Probe,
    /// How often it was sent in this round.
    times: u32,
    begun: Time,
    due: Time,
    /// Something came straight all the same, so it is asked once more before that is held to be one direction only.
    is_second_round: bool,
}

impl Doubt {
    /// The way is to be asked, under a number that no other probe has.
    pub(crate) fn begin(now: Time, number: u64) -> Self {
        let size = PROBE_MIN;
        Self::AwaitingAnswer(Question {
            probe: Probe { number, size },
            times: 0,
            begun: now,
            due: now,
            is_second_round: false,
        })
    }

    /// True when the way did not answer.
    pub(crate) fn is_founded(&self) -> bool {
        matches!(self, Self::AwaitingAnyWay)
    }

    /// While the way is asked: when [`Doubt::poll_probe`] has something to do.
    pub(crate) fn asks_at(&self) -> Option<Time> {
        match self {
            Self::AwaitingAnswer(question) => Some(question.due),
            Self::None | Self::AwaitingAnyWay => None,
        }
    }

    /// When another way is to be looked for.
    pub(crate) fn founded_at(&self) -> Time {
        match self {
            Self::AwaitingAnyWay => Time::ZERO,
            Self::None | Self::AwaitingAnswer(_) => Time::NEVER,
        }
    }

    /// Takes note of the time; returns the probe that is to be sent now. `heard` is when something came straight last.
    pub(crate) fn poll_probe(&mut self, now: Time, heard: Time) -> Option<Probe> {
        let Self::AwaitingAnswer(question) = self else {
            return None;
        };
        if question.due > now {
            return None;
        }
        if question.times >= QUESTIONS {
            if question.is_second_round || heard <= question.begun {
                *self = Self::AwaitingAnyWay;
                return None;
            }
            question.times = 0;
            question.is_second_round = true;
        }
        question.times += 1;
        question.due = now + QUESTION_PAUSE;
        Some(question.probe)
    }
}
