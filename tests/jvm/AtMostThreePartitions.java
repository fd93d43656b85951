import java.util.Map;

import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

/** A policy of a cluster, for docker/with-kafka --policy: topics have at most three partitions. */
public class AtMostThreePartitions implements CreateTopicPolicy {
    @Override
    public void configure(Map<String, ?> settings) {}

    @Override
    public void validate(RequestMetadata topic) {
        if (topic.numPartitions() != null && topic.numPartitions() > 3) {
            throw new PolicyViolationException(topic.topic() + " has more than 3 partitions");
        }
    }

    @Override
    public void close() {}
}
