//! Meaning of Kafka's error codes for the caller: whether waiting helps, and if not, which action does.
//!
//! One table for every request. Errors that Kafka's protocol calls retriable are waited for. So are faults of a
//! connection and of a client's own state, which end with a new client. All other errors last until a user or an
//! administrator changes something: they fail the statement or the job, and say what helps.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::error::ErrorKind;

/// The meaning of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorMeaning {
    /// There is no connection, or no answer: the cause is in the client's log.
    NoAnswer,
    /// It may pass: the same request, or a new client, may succeed.
    Transient,
    /// It lasts.
    Permanent {
        /// The kind, which says who must act.
        kind: ErrorKind,
        /// The action that helps.
        help: &'static str,
        /// Whether it is about a record, and so about a row.
        is_of_row: bool,
    },
}

const fn lasts(kind: ErrorKind, help: &'static str) -> ErrorMeaning {
    ErrorMeaning::Permanent {
        kind,
        help,
        is_of_row: false,
    }
}

const fn invalid(help: &'static str) -> ErrorMeaning {
    let kind = ErrorKind::Invalid;
    lasts(kind, help)
}

const fn data(help: &'static str) -> ErrorMeaning {
    let kind = ErrorKind::Data;
    lasts(kind, help)
}

const fn denied(help: &'static str) -> ErrorMeaning {
    let kind = ErrorKind::Permission;
    lasts(kind, help)
}

const fn unsupported(help: &'static str) -> ErrorMeaning {
    let kind = ErrorKind::Unsupported;
    lasts(kind, help)
}

const UNKNOWN: &str = "the broker's own log says more; RESUME JOB tries again";
const OPTION: &str = "check the 'kafka.*' options of the table";
const GROUP: &str =
    "the group anabranch-<id> belongs to the job: no other consumer may be a member of it";
const TOKENS: &str = "check the delegation token in the 'kafka.sasl.*' options";
const OLD_BROKER: &str = "the broker is too old for this, or is not configured for it";
const SIZE: &str = "raise 'kafka.message.max.bytes' of the table and the topic's max.message.bytes";
const GONE: &str = "the records are no longer in the topic; RESUME JOB checks again which are there, and reports the lost ones";

/// The meaning of a code.
pub(crate) fn meaning(code: Code) -> ErrorMeaning {
    use ErrorMeaning::{NoAnswer, Transient};
    match code {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::MessageTimedOut
        | Code::Resolve
        | Code::SSL
        | Code::Authentication => NoAnswer,

        // Kafka's protocol calls these retriable.
        Code::InvalidMessage
        | Code::UnknownTopicOrPartition
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::NotController
        | Code::KafkaStorageError
        | Code::FetchSessionIdNotFound
        | Code::InvalidFetchSessionEpoch
        | Code::ListenerNotFound
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable
        | Code::ElectionNotNeeded
        | Code::UnstableOffsetCommit
        | Code::ThrottlingQuotaExceeded
        | Code::UnknownTopicId => Transient,

        // A cluster that is being changed: it passes, though the protocol does not promise it.
        Code::BrokerNotAvailable
        | Code::StaleControllerEpoch
        | Code::StaleBrokerEpoch
        | Code::ConcurrentTransactions
        | Code::TransactionCoordinatorFenced
        | Code::ReassignmentInProgress
        | Code::RebootstrapRequired => Transient,

        // A producer that has lost its place: the next one begins with a new epoch.
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::InvalidTransactionalState
        | Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::ProducerFenced
        | Code::Fenced => Transient,

        // The client's own state.
        Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::Fail
        | Code::CriticalSystemResource
        | Code::QueueFull
        | Code::ISRInsufficient
        | Code::NodeUpdate
        | Code::WaitingForCoordinator
        | Code::UnknownGroup
        | Code::InProgress
        | Code::PreviousInProgress
        | Code::Conflict
        | Code::State
        | Code::Outdated
        | Code::TimedOutQueue
        | Code::WaitCache
        | Code::Interrupted
        | Code::Partial
        | Code::Underflow
        | Code::Retry
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::Fatal
        | Code::Inconsistent
        | Code::GaplessGuarantee
        | Code::PollExceeded
        | Code::UnknownBroker
        // The broker or the client does not know the topic, the partition or its leader yet: a topic is looked up
        // before it is used, so it exists.
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::NoEnt
        | Code::AssignmentLost => Transient,

        // Records.
        // The client says so of any record that it has sent together with others, also of one with a wrong time.
        Code::InvalidRecord | Code::InvalidDifferentRecord => data(
            "a compacted topic takes no record without a key: give the table a PRIMARY KEY, or fill its column of metadata 'key'; \
             if the time of a record is far from the broker's clock, write another one to the column of metadata 'timestamp', or \
             raise the topic's message.timestamp.after.max.ms and message.timestamp.before.max.ms; otherwise the broker's log says \
             what is wrong with the record",
        ),
        Code::InvalidTimestamp => data(
            "write another time to the column of metadata 'timestamp', or raise the topic's message.timestamp.after.max.ms \
             and message.timestamp.before.max.ms",
        ),
        Code::MessageSizeTooLarge => ErrorMeaning::Permanent {
            kind: ErrorKind::Data,
            help: SIZE,
            is_of_row: true,
        },
        Code::InvalidMessageSize | Code::MessageBatchTooLarge => data(SIZE),
        Code::BadMessage => data(
            "RESUME JOB reads them again; if they stay damaged, the broker's log is: restore the topic from a replica or from its source",
        ),
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation | Code::NoOffset => {
            data(GONE)
        }
        Code::BadCompression | Code::UnsupportedCompressionType => unsupported(
            "choose another 'kafka.compression.type', or change the topic's compression.type",
        ),
        Code::UnsupportedForMessageFormat => {
            unsupported("the topic's message format is older than transactions: upgrade it")
        }

        // Topics and their settings.
        Code::InvalidTopic => {
            invalid("a topic's name has letters, digits, '.', '_' and '-', and at most 249 of them")
        }
        Code::TopicAlreadyExists => invalid("leave out 'topic.partitions'"),
        Code::InvalidPartitions => invalid("change 'topic.partitions' of the table"),
        Code::InvalidReplicationFactor | Code::InvalidReplicaAssignment => invalid(
            "change 'topic.replication_factor' of the table: it can be no more than the number of brokers",
        ),
        Code::InvalidConfig => invalid("the broker does not take a setting of the topic"),
        Code::PolicyViolation => {
            invalid("a policy of the cluster forbids it: the log of its controller says why")
        }
        Code::TopicDeletionDisabled => {
            invalid("the broker's delete.topic.enable allows no topic to be deleted")
        }
        Code::InvalidRequiredAcks => invalid(OPTION),

        // Transactions and groups.
        Code::InvalidTransactionTimeout => invalid(
            "lower 'transaction.timeout' of the table, or raise the broker's transaction.max.timeout.ms",
        ),
        Code::OffsetMetadataTooLarge | Code::InvalidCommitOffsetSize => {
            invalid("raise the broker's offset.metadata.max.bytes: a job keeps its witness there")
        }
        Code::IllegalGeneration
        | Code::InconsistentGroupProtocol
        | Code::InvalidGroupId
        | Code::UnknownMemberId
        | Code::InvalidSessionTimeout
        | Code::RebalanceInProgress
        | Code::NonEmptyGroup
        | Code::GroupIdNotFound
        | Code::MemberIdRequired
        | Code::GroupMaxSizeReached
        | Code::FencedInstanceId
        | Code::GroupSubscribedToTopic
        | Code::FencedMemberEpoch
        | Code::UnreleasedInstanceId
        | Code::UnsupportedAssignor
        | Code::StaleMemberEpoch
        | Code::ExistingSubscription => invalid(GROUP),

        // Rights.
        Code::TopicAuthorizationFailed => {
            denied("give the user of 'kafka.sasl.username' the right to read, or write, the topic")
        }
        Code::GroupAuthorizationFailed => {
            denied("give the user of 'kafka.sasl.username' the right to read the group anabranch-*")
        }
        Code::ClusterAuthorizationFailed => denied(
            "give the user of 'kafka.sasl.username' the cluster's right that this needs: IdempotentWrite, or Create",
        ),
        Code::TransactionalIdAuthorizationFailed => denied(
            "give the user of 'kafka.sasl.username' the rights to describe and write the transactional id anabranch-*",
        ),
        Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled => denied(
            "check 'kafka.security.protocol', 'kafka.sasl.mechanism', 'kafka.sasl.username' and 'kafka.sasl.password'",
        ),
        Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenExpired
        | Code::InvalidPrincipalType
        | Code::PrincipalDeserializationFailure
        | Code::UnacceptableCredential => denied(TOKENS),

        // Requests that this broker cannot answer.
        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::NotImplemented
        | Code::UnknownProtocol => unsupported(OLD_BROKER),
        Code::InvalidArgument
        | Code::FileSystem
        | Code::NotConfigured
        | Code::InvalidType
        | Code::ReadOnly => invalid(OPTION),

        Code::Unknown
        | Code::InvalidRequest
        | Code::OperationNotAttempted
        | Code::LogDirNotFound
        | Code::NoReassignmentInProgress
        | Code::ResourceNotFound
        | Code::DuplicateResource
        | Code::InconsistentVoterSet
        | Code::InvalidUpdateVersion
        | Code::FeatureUpdateFailed
        | Code::UnknownSubscriptionId
        | Code::TelemetryTooLarge
        | Code::KeySerialization
        | Code::ValueSerialization
        | Code::KeyDeserialization
        | Code::ValueDeserialization
        | Code::Application => invalid(UNKNOWN),

        // No errors, or codes that this program does not know: nothing says that waiting would help.
        _ => lasts(ErrorKind::Internal, UNKNOWN),
    }
}

/// Whether one of several failures only follows from another, which says why.
pub(crate) fn is_consequence(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidDifferentRecord
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::State
            | Code::Fatal
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::types::RDKafkaRespErr;

    /// All codes that the client library knows, without the marks at the ends of its list.
    fn codes() -> Vec<(i32, Code)> {
        let found: Vec<_> = (-199..=200)
            .filter_map(|number| {
                let code = Code::from(RDKafkaRespErr::try_from(number).ok()?);
                Some((number, code))
            })
            .filter(|(_, code)| !matches!(code, Code::Begin | Code::End | Code::EndAll))
            .collect();
        assert!(found.len() > 150, "{}", found.len());
        found
    }

    /// "Retriable" in the table of error codes of Kafka's protocol.
    const RETRIABLE: [i32; 26] = [
        2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 56, 70, 71, 72, 74, 75, 78, 80, 83, 84, 88,
        89, 100,
    ];
    /// Not retriable by that table, and yet worth another try: a cluster in movement, and a producer that starts again.
    const MOVING: [i32; 7] = [8, 11, 51, 52, 60, 77, 129];
    const PRODUCER: [i32; 7] = [45, 46, 47, 48, 49, 59, 90];

    #[test]
    fn retriable_errors_are_retried_and_others_fail() {
        for (number, code) in codes() {
            if number <= 0 {
                continue;
            }
            let may_pass = [&RETRIABLE[..], &MOVING, &PRODUCER]
                .concat()
                .contains(&number);
            let lasts = matches!(meaning(code), ErrorMeaning::Permanent { .. });
            assert_ne!(lasts, may_pass, "{number} {code}");
        }
    }

    #[test]
    fn every_permanent_error_code_has_a_kind_and_help() {
        /// No errors: assignments, the end of a partition, success.
        const NONE: [i32; 5] = [-191, -175, -174, -141, 0];
        for (number, code) in codes() {
            let ErrorMeaning::Permanent { kind, help, .. } = meaning(code) else {
                continue;
            };
            assert_eq!(
                kind == ErrorKind::Internal,
                NONE.contains(&number),
                "{number} {code} is not in the table"
            );
            assert_ne!(kind, ErrorKind::Unavailable, "{number} {code}");
            assert!(help.len() > 20, "{number} {code}");
        }
    }

    #[test]
    fn client_errors_are_classified() {
        let lasts: Vec<i32> = codes()
            .into_iter()
            .filter(|(number, code)| {
                *number < 0 && matches!(meaning(*code), ErrorMeaning::Permanent { .. })
            })
            .map(|(number, _)| number)
            .collect();
        assert_eq!(
            lasts,
            [
                -199, -198, -191, -189, -186, -176, -175, -174, -171, -170, -168, -165, -162, -161,
                -160, -159, -157, -154, -145, -143, -141, -140, -139, -138, -1
            ]
        );
    }
}
