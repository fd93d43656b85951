//! Rules of a topic for its records. If several records were sent together, the client learns only that they are
//! invalid: the topic's rules tell the reason.

use crate::tables::kafka::client::{ClientSettings, setting, topic_settings};

/// The rules of a topic for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicRules {
    /// It is compacted: each record has a key.
    pub(crate) is_compacted: bool,
    /// How far the time of a record may be behind the broker's clock, in milliseconds.
    behind: i64,
    /// How far it may be ahead.
    ahead: i64,
}

/// A rule that records break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokenRule {
    /// A record has no key.
    Key,
    /// The time of a record is too far from the broker's clock.
    Time,
}

impl TopicRules {
    /// Asks the brokers; none if they do not tell.
    pub(crate) async fn of_topic(settings: &ClientSettings, topic: &str) -> Option<Self> {
        let described = topic_settings(settings, topic).await?;
        Some(Self::of(|name| setting(&described, name)))
    }

    /// Reads them from the settings of a topic.
    fn of<'s>(setting: impl Fn(&str) -> Option<&'s str>) -> Self {
        // A topic that sets the times of records itself takes any.
        let sets_times = setting("message.timestamp.type") == Some("LogAppendTime");
        let limit = |name| {
            // Brokers before Kafka 3.6 have one setting for both.
            let given = setting(name).or_else(|| setting("message.timestamp.difference.max.ms"));
            let limit = given.and_then(|given| given.parse().ok());
            limit.filter(|_| !sets_times).unwrap_or(i64::MAX)
        };
        Self {
            is_compacted: setting("cleanup.policy")
                .is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact")),
            behind: limit("message.timestamp.before.max.ms"),
            ahead: limit("message.timestamp.after.max.ms"),
        }
    }

    /// The rule that a record breaks which was refused `without_key`, sent among others with times from the first to the last of
    /// `times`, when the clock says `now`; none if it breaks none of them.
    pub(crate) fn broken(
        &self,
        without_key: bool,
        times: Option<(i64, i64)>,
        now: i64,
    ) -> Option<BrokenRule> {
        // Brokers check a record in this order.
        if self.is_compacted && without_key {
            return Some(BrokenRule::Key);
        }
        let (first, last) = times?;
        let is_far =
            now.saturating_sub(first) > self.behind || last.saturating_sub(now) > self.ahead;
        is_far.then_some(BrokenRule::Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(settings: &[(&str, &'static str)]) -> TopicRules {
        TopicRules::of(|name| {
            let found = settings.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| *value)
        })
    }

    #[test]
    fn a_record_without_a_key_breaks_only_compacted_topics() {
        let plain = rules(&[("message.timestamp.after.max.ms", "1000")]);
        let compacted = rules(&[
            ("cleanup.policy", "compact,delete"),
            ("message.timestamp.after.max.ms", "1000"),
        ]);
        let (far, near) = (Some((50, 2_000)), Some((50, 1_000)));
        assert_eq!(plain.broken(true, far, 100), Some(BrokenRule::Time));
        assert_eq!(plain.broken(false, far, 100), Some(BrokenRule::Time));
        assert_eq!(plain.broken(true, near, 100), None);
        assert_eq!(plain.broken(true, None, 100), None);
        assert_eq!(compacted.broken(true, far, 100), Some(BrokenRule::Key));
        assert_eq!(compacted.broken(false, far, 100), Some(BrokenRule::Time));
        assert_eq!(compacted.broken(false, near, 100), None);
    }

    #[test]
    fn record_times_are_bounded_unless_the_topic_sets_them() {
        let both = rules(&[("message.timestamp.difference.max.ms", "10")]);
        let before = rules(&[("message.timestamp.before.max.ms", "10")]);
        let own = rules(&[
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.difference.max.ms", "10"),
        ]);
        for (times, of_both, of_before) in [
            ((90, 110), None, None),
            ((89, 110), Some(BrokenRule::Time), Some(BrokenRule::Time)),
            ((90, 111), Some(BrokenRule::Time), None),
            (
                (i64::MIN, i64::MAX),
                Some(BrokenRule::Time),
                Some(BrokenRule::Time),
            ),
        ] {
            assert_eq!(both.broken(false, Some(times), 100), of_both, "{times:?}");
            assert_eq!(
                before.broken(false, Some(times), 100),
                of_before,
                "{times:?}"
            );
            assert_eq!(own.broken(false, Some(times), 100), None, "{times:?}");
            assert_eq!(rules(&[]).broken(true, Some(times), 100), None);
        }
    }
}
