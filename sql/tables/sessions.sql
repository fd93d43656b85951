-- Finished visits with their pages in order.
CREATE EXTERNAL TABLE sessions (
  visit_id                 VARCHAR,
  user_id                  VARCHAR,
  start_time               TIMESTAMP,
  end_time                 TIMESTAMP,
  visited_pages            ARRAY<STRUCT<page VARCHAR, event_time_as_milliseconds BIGINT>>,
  duration_in_milliseconds BIGINT,
  PRIMARY KEY (visit_id) NOT ENFORCED
)
STORED AS KAFKA LOCATION 'sessions'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'timezone' 'Europe/Paris',
  'json.timestamp_format' 'iso_millis',
  'topic.partitions' '1'
);
