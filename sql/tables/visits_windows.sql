-- Visits per window of ten minutes.
CREATE EXTERNAL TABLE visits_windows (
  window_start TIMESTAMP,
  window_end   TIMESTAMP,
  visits       BIGINT,
  PRIMARY KEY (window_start) NOT ENFORCED
)
STORED AS KAFKA LOCATION 'visits_windows'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'topic.partitions' '1'
);
