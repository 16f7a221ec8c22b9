//! Heartbeats, round-trip times, silent peers, the writing of frames, and the links that this host publishes.

use crate::conn::{Conn, Control, Stage};
use crate::mesh::{ConnId, Mesh, Output};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::codec;
use weft_wire::limits::{HEARTBEAT_INTERVAL, PUBLISHED_LINKS_MAX};
use weft_wire::mesh::{Heartbeat, Message};
use weft_wire::record::{Body, LinksRecord, PublishedLink};
use weft_wire::{NodeId, RejectReason, Time};

/// Links that come or go are published at most so often.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// A link that has come is published after this time at the earliest. After a start links come in a row, the last of them
/// those for which the other end is left to dial first ([`YIELD`](crate::dial::YIELD)): one record names them all.
pub(crate) const GATHER: Duration = Duration::from_millis(750);
/// Round-trip times alone are published at most so often.
const PUBLISH_RTT_INTERVAL: Duration = Duration::from_secs(60);

fn micros(time: Time) -> u64 {
    time.as_nanos() / 1_000
}

/// A smoothed round-trip time (RFC 6298 §2: each sample counts for one eighth).
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Rtt {
    smoothed_us: Option<u64>,
}

impl Rtt {
    fn sample(&mut self, us: u64) {
        self.smoothed_us = Some(match self.smoothed_us {
            None => us,
            Some(old) => old - old / 8 + us / 8,
        });
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed_us.map(Duration::from_micros)
    }
}

/// Power of two at or below a round-trip time, kept while the time stays within a quarter around its bucket.
fn bucket(held: Option<u8>, us: u64) -> u8 {
    if let Some(held) = held {
        let low = 1u64.checked_shl(u32::from(held)).unwrap_or(u64::MAX);
        let high = low.saturating_mul(2);
        if us >= low - low / 4 && us <= high.saturating_add(high / 4) {
            return held;
        }
    }
    // Between 0 and 63.
    us.max(1).ilog2() as u8
}

/// What was published last, and when to look again.
#[derive(Default)]
pub(crate) struct LinksPublisher {
    published: Vec<PublishedLink>,
    last: Option<Time>,
    /// Since when there are links that are not published.
    news: Option<Time>,
    /// When the links are to be compared with what was published; long ago after a link came or went.
    due: Time,
}

impl LinksPublisher {
    /// A link has come or gone.
    pub(crate) fn look_again(&mut self) {
        self.due = Time::ZERO;
    }
}

impl Mesh {
    pub(crate) fn on_heartbeat(&mut self, now: Time, id: ConnId, heartbeat: &Heartbeat) {
        if let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) {
            let is_first = up.last_heartbeat.replace((heartbeat.sent, now)).is_none();
            if is_first && matches!(id, ConnId::Dialled(_)) {
                // The end that dialled has measured the link with this; by its echo the other has, too.
                up.heartbeat_due = now;
            }
            if let Some((sent, held_for)) = heartbeat.echo {
                // A lying echo spoils only the sender's own round-trip time.
                let since_sent = micros(now).saturating_sub(sent);
                if up.rtt.smoothed_us.is_none() {
                    self.publisher.look_again();
                }
                up.rtt.sample(since_sent.saturating_sub(held_for));
            }
        }
        self.compare(now, id, &heartbeat.fingerprint);
    }

    /// Gives up what has lasted too long.
    pub(crate) fn expire(&mut self, now: Time) {
        let expired: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.expires() <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            match &conn.stage {
                Stage::Connecting => {
                    self.outputs.push_back(Output::Close { conn: id });
                    self.on_dial_failed(now, id, "no answer".into());
                }
                Stage::Closing(_) => {
                    self.conns.remove(&id);
                    self.outputs.push_back(Output::Close { conn: id });
                }
                Stage::Up(_) | Stage::AwaitingCluster(_) => self.close(now, id, RejectReason::LinkTimeout),
                _ => self.close(now, id, RejectReason::HandshakeTimeout),
            }
        }
    }

    /// Gives the shell the next frame of a connection, if it waits for one.
    pub(crate) fn pump(&mut self, now: Time, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.in_flight.is_some() {
            return;
        }
        let frame = match conn.control.pop_front() {
            Some(Control::Raw(frame)) => Some(frame),
            Some(Control::Message(message)) => {
                let frame = conn.seal(&message);
                if frame.is_none() && !matches!(conn.stage, Stage::Closing(_)) {
                    // The keys are worn out, or the message is too long for a frame.
                    return self.close(now, id, RejectReason::BadMessage);
                }
                frame
            }
            None => {
                let message = match &mut conn.stage {
                    Stage::Up(up) if up.heartbeat_due <= now => {
                        up.heartbeat_due = now + HEARTBEAT_INTERVAL;
                        Some(Message::Heartbeat(Heartbeat {
                            fingerprint: self.registers.fingerprint(),
                            sent: micros(now),
                            echo: up.last_heartbeat.map(|(sent, at)| {
                                let held = u64::try_from(now.since(at).as_micros());
                                (sent, held.unwrap_or(u64::MAX))
                            }),
                        }))
                    }
                    Stage::Up(up) if up.summaries.is_due() => up.summaries.next(now, &self.registers),
                    Stage::Up(up) => match up.direct.pop_front() {
                        Some(bytes) => Some(Message::Direct(bytes)),
                        None => match up.passing.pop_front() {
                            Some(passed) => Some(Message::Passed(passed)),
                            None => Self::next_records(&self.registers, up),
                        },
                    },
                    Stage::AwaitingCluster(gathering) => {
                        let word = gathering.outbox.pop_front();
                        if word.is_some() || gathering.heartbeat_due <= now {
                            gathering.heartbeat_due = now + HEARTBEAT_INTERVAL;
                            Some(Message::Agreement(word.unwrap_or_default()))
                        } else {
                            None
                        }
                    }
                    _ => None,
                };
                message.and_then(|message| conn.seal(&message))
            }
        };
        if let Some(frame) = frame {
            conn.in_flight = Some(now);
            self.outputs.push_back(Output::Send { conn: id, frame });
        } else if matches!(conn.stage, Stage::Closing(_)) && conn.control.is_empty() {
            self.conns.remove(&id);
            self.outputs.push_back(Output::Close { conn: id });
        }
    }

    /// The standing links with a measured round-trip time, one for each neighbour.
    fn current_links(&self) -> Vec<PublishedLink> {
        let held: BTreeMap<NodeId, u8> = self
            .publisher
            .published
            .iter()
            .map(|link| (link.neighbour, link.rtt_log2_us))
            .collect();
        let measured: BTreeMap<NodeId, u64> = self
            .conns
            .values()
            .filter_map(Conn::up)
            .filter(|up| !self.removed.contains_key(&up.session.peer.node))
            .filter_map(|up| Some((up.session.peer.node, up.rtt.smoothed_us?)))
            .collect();
        measured
            .into_iter()
            .take(PUBLISHED_LINKS_MAX)
            .map(|(neighbour, us)| PublishedLink {
                neighbour,
                rtt_log2_us: bucket(held.get(&neighbour).copied(), us),
            })
            .collect()
    }

    /// Publishes the links when they changed and the last time is long enough ago.
    pub(crate) fn publish_links(&mut self, now: Time) {
        if now < self.publisher.due || self.membership.is_none() {
            return;
        }
        let links = self.current_links();
        if links == self.publisher.published {
            self.publisher.due = now + PUBLISH_RTT_INTERVAL;
            return;
        }
        let held: Vec<NodeId> = self.publisher.published.iter().map(|l| l.neighbour).collect();
        let stands = |node: &NodeId| links.iter().any(|link| link.neighbour == *node);
        let (are_lost, are_new) = (!held.iter().all(stands), links.len() > held.len());
        let earliest = |interval| self.publisher.last.map_or(Time::ZERO, |last| last + interval);
        let due = if are_lost {
            earliest(PUBLISH_INTERVAL)
        } else if are_new {
            let since = *self.publisher.news.get_or_insert(now);
            earliest(PUBLISH_INTERVAL).max(since + GATHER)
        } else {
            earliest(PUBLISH_RTT_INTERVAL)
        };
        if now < due {
            self.publisher.due = due;
            return;
        }
        self.publisher.news = None;
        self.publisher.last = Some(now);
        self.publisher.due = now + PUBLISH_RTT_INTERVAL;
        self.publisher.published.clone_from(&links);
        self.set_record(LinksRecord::KIND, codec::encode(&LinksRecord { links }));
    }

    pub(crate) fn publish_deadline(&self) -> Time {
        if self.membership.is_none() || self.stopping {
            return Time::NEVER;
        }
        self.publisher.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_until_a_quarter_beyond_their_edges() {
        assert_eq!(bucket(None, 0), 0);
        assert_eq!(bucket(None, 1_024), 10);
        assert_eq!(bucket(Some(10), 2_500), 10);
        assert_eq!(bucket(Some(10), 2_600), 11);
        assert_eq!(bucket(Some(10), 768), 10);
        assert_eq!(bucket(Some(10), 767), 9);
        assert_eq!(bucket(None, u64::MAX), 63);
    }

    #[test]
    fn a_round_trip_time_follows_its_samples() {
        let mut rtt = Rtt::default();
        rtt.sample(800);
        assert_eq!(rtt.smoothed(), Some(Duration::from_micros(800)));
        rtt.sample(1_600);
        assert_eq!(rtt.smoothed(), Some(Duration::from_micros(900)));
    }
}
