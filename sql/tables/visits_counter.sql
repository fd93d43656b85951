-- Pages per session: the topic that the live job and every reprocessing write.
CREATE EXTERNAL TABLE visits_counter (
  visit_id      VARCHAR,
  visited_pages BIGINT,
  is_finished   BOOLEAN,
  headers       MAP<VARCHAR, VARCHAR> METADATA,
  PRIMARY KEY (visit_id) NOT ENFORCED
)
STORED AS KAFKA LOCATION 'visits_counter'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'topic.partitions' '1',
  'delivery' 'transactional'
);
