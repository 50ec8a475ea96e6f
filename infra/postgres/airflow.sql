-- MLflow has the database that the image makes; Airflow gets one of its own.
CREATE DATABASE airflow;
