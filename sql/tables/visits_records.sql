-- The same topic as its records are: text and coordinates, nothing decoded. Its past is in the archive, which keeps no timestamps.
CREATE EXTERNAL TABLE visits_records (
  value           VARCHAR,
  kafka_partition INT       METADATA FROM 'partition',
  kafka_offset    BIGINT    METADATA FROM 'offset',
  kafka_timestamp TIMESTAMP METADATA FROM 'timestamp'
)
STORED AS KAFKA LOCATION 'visits'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'raw',
  'archive' 'visits_raw',
  'archive.timestamp' 'none',
  'topic.partitions' '1'
);
