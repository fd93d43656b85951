"""Reads a topic from its beginning to its end and prints the newest row of each key: newest_rows.py BROKERS TOPIC"""
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

brokers, topic = sys.argv[1:]
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": "newest-rows",
    "enable.auto.commit": False,          # the rows are in memory: the next process begins again
    "isolation.level": "read_committed",  # without rows of transactions that are open or were aborted
    "enable.partition.eof": True,
})
partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])

rows, unread = {}, set(partitions)
while unread:
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error() and message.error().code() == KafkaError._PARTITION_EOF:
        unread.discard(message.partition())
    elif message.error():
        raise KafkaException(message.error())
    elif message.value() is None:
        rows.pop(message.key(), None)         # a tombstone: there is no such row any more
    else:
        rows[message.key()] = message.value()  # a later row of a key stands for all earlier ones
consumer.close()

for key in sorted(rows):
    print(key.decode(), rows[key].decode(), sep="\t")
