-- Visits under the names that the reports use, with times of Paris.
CREATE EXTERNAL TABLE visits_converted (
  event_identifier VARCHAR,
  visit_identifier BIGINT,
  event_time       TIMESTAMP,
  visited_page     VARCHAR,
  headers          MAP<VARCHAR, VARCHAR> METADATA
)
STORED AS KAFKA LOCATION 'visits_converted'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'timezone' 'Europe/Paris',
  'json.timestamp_format' 'iso_millis',
  'topic.partitions' '1'
);
