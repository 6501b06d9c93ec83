//! The fail points that are swept, and what is done at each.
//!
//! The names are the program's (`host/failpoints/src/point.rs`); a run whose point is never reached fails, so a name that
//! is not one any more is noticed.

use std::{fmt, time::Duration};

/// The operations of the seams.
const OPERATIONS: [&str; 18] = [
    "source.next",
    "source.close",
    "handler.call",
    "publish.publish",
    "publish.publish-all",
    "publish.send",
    "publish.dead-letter",
    "settle.ack",
    "settle.ack-confirmed",
    "settle.put-back",
    "settle.terminate",
    "settle.progress",
    "settle.attempts",
    "settle.record-attempts",
    "settle.park",
    "settle.claim-key",
    "settle.release-key",
    "settle.unsettled",
];

/// An operation that no event leads to any more: outputs are stored by `publish-all`. A run at its points shows only that
/// the host works with the point in its plan.
const NOT_LED_TO: &str = "publish.publish";

/// What the plugin is like, so that its events lead to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// As plugins are mostly.
    Plain,
    /// Its inputs have keys, and a repeated one is recognised.
    Keyed,
    /// Waits for the next attempt are spent outside of the consumer.
    Parked,
    /// It also publishes without a guarantee.
    Core,
    /// Events of one key stay in order.
    Ordered,
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The host's code panics.
    Panic,
    /// An error is told.
    Error,
    /// It goes on later.
    Delay,
    /// The process ends.
    Abort,
}

/// One run of the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The seam's operation.
    pub operation: &'static str,
    /// `before` or `after`.
    pub side: &'static str,
    /// What happens there.
    pub action: Action,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Panic, Self::Error, Self::Delay, Self::Abort];

    /// As the plan says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Error => "error",
            Self::Delay => "delay",
            Self::Abort => "abort",
        }
    }
}

impl Case {
    /// Every point with every action, those first that take longest.
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for operation in OPERATIONS {
            for side in ["before", "after"] {
                cases.extend(Action::ALL.map(|action| Self { operation, side, action }));
            }
        }
        cases.sort_by_key(|case| std::cmp::Reverse(case.patience()));
        cases
    }

    /// A few that show something of each action and each seam, and need no long wait: for every change.
    pub fn selected() -> Vec<Self> {
        let chosen = [
            ("source.next", "after", Action::Panic),
            ("source.close", "before", Action::Error),
            ("handler.call", "after", Action::Error),
            ("publish.publish-all", "before", Action::Abort),
            ("publish.publish-all", "after", Action::Error),
            ("publish.dead-letter", "after", Action::Abort),
            ("publish.dead-letter", "before", Action::Delay),
            ("settle.ack", "before", Action::Error),
            ("settle.ack", "after", Action::Abort),
            ("settle.put-back", "before", Action::Panic),
            ("settle.terminate", "before", Action::Abort),
            ("settle.attempts", "before", Action::Delay),
            ("settle.record-attempts", "after", Action::Panic),
            ("settle.park", "after", Action::Abort),
            ("settle.release-key", "before", Action::Error),
            ("publish.send", "before", Action::Panic),
        ];
        chosen.map(|(operation, side, action)| Self { operation, side, action }).into()
    }

    /// The plan for the host.
    pub fn plan(&self) -> String {
        let what = match (self.action, self.is_rare()) {
            // The intake rests for a second after each.
            (Action::Panic, false) if self.operation == "source.next" => "panic:every@50",
            (Action::Panic, true) => "panic:once@1",
            (Action::Panic, false) => "panic:every@7",
            _ if self.is_slow_letter() => "delay(1000)",
            // It is asked until it answers, once as a rule.
            (Action::Error, true) if self.lead() == Lead::Ordered => "error:once@1",
            (Action::Error, true) => "error",
            (Action::Error, false) => "error:every@8",
            (Action::Delay, true) => "delay(500)",
            (Action::Delay, false) => "delay(200):every@7",
            (Action::Abort, true) => "abort:once@1",
            (Action::Abort, false) => "abort:once@7",
        };
        let plan = format!("{self}={what}", self = self.point());
        // Progress is told of what takes long.
        if self.operation == "settle.progress" {
            format!("{plan},handler.call.before=delay(3000):once@5")
        } else {
            plan
        }
    }

    /// The point's name.
    pub fn point(&self) -> String {
        format!("{}.{}", self.operation, self.side)
    }

    /// Whether the events of a run lead to the point.
    pub fn is_led_to(&self) -> bool {
        self.operation != NOT_LED_TO
    }

    /// What the plugin is like.
    pub fn lead(&self) -> Lead {
        match self.operation {
            "settle.claim-key" | "settle.release-key" => Lead::Keyed,
            "settle.park" | "settle.ack-confirmed" => Lead::Parked,
            "publish.send" => Lead::Core,
            "settle.unsettled" => Lead::Ordered,
            _ => Lead::Plain,
        }
    }

    /// Whether the host is killed amid its work: where order is kept, the next asks what was not settled.
    pub fn is_killed_amid(&self) -> bool {
        self.lead() == Lead::Ordered
    }

    /// Whether the host is asked to stop amid its work.
    pub fn stops_amid(&self) -> bool {
        self.operation == "source.close" || self.is_slow_letter()
    }

    /// How long nothing may move in the run. A dead letter that is refused waits for a minute.
    pub fn patience(&self) -> Duration {
        let waits = self.operation == "publish.dead-letter" && self.action == Action::Error;
        Duration::from_secs(if waits { 200 } else { 60 })
    }

    /// Every dead letter takes long, so that a host that is asked to stop is writing some.
    fn is_slow_letter(&self) -> bool {
        self.operation == "publish.dead-letter" && self.action == Action::Delay
    }

    /// Whether a life of the host passes the point only a few times.
    fn is_rare(&self) -> bool {
        ["source.close", "settle.progress", "settle.unsettled"].contains(&self.operation)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.point(), self.action.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_swept_with_every_action_and_the_selection_has_each_action_and_seam() {
        let (all, selected) = (Case::all(), Case::selected());
        assert_eq!(all.len(), 36 * 4);
        assert!(selected.iter().all(|case| all.contains(case) && case.is_led_to()));
        assert!(Action::ALL.iter().all(|action| selected.iter().any(|case| case.action == *action)));
        for seam in ["source.", "handler.", "publish.", "settle."] {
            assert!(selected.iter().any(|case| case.operation.starts_with(seam)), "{seam}");
        }
    }
}
