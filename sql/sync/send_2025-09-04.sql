-- Sends a day of visits from a CSV file to the topic. Run it from the repository's folder.
CREATE EXTERNAL TABLE visits_csv (event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR)
STORED AS CSV LOCATION 'sql/data/visits_2025-09-04.csv' OPTIONS ('format.has_header' 'true');

INSERT INTO visits (event_id, user_id, event_time, page) SELECT event_id, user_id, event_time, page FROM visits_csv;
