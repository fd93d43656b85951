import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Reads a topic from its beginning to its end and prints the newest row of each key: NewestRows.java BROKERS TOPIC */
public class NewestRows {
    public static void main(String[] arguments) {
        String brokers = arguments[0], topic = arguments[1];
        Map<String, Object> settings = Map.of("bootstrap.servers", brokers,
            "enable.auto.commit", false, // the rows are in memory: the next process begins again
            "isolation.level", "read_committed"); // without rows of transactions that are open or were aborted
        Map<String, String> rows = new TreeMap<>();
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<String, String>(settings, text, text)) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(partition -> new TopicPartition(topic, partition.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (var row : consumer.poll(Duration.ofSeconds(1))) {
                    if (row.value() == null) rows.remove(row.key()); // a tombstone: there is no such row any more
                    else rows.put(row.key(), row.value()); // a later row of a key stands for all earlier ones
                }
            }
        }
        rows.forEach((key, value) -> System.out.println(key + "\t" + value));
    }
}
