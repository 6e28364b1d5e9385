#!/bin/sh
# Creates the two databases of the example when PostgreSQL's container first starts.
set -eu
for db in shop warehouse; do
	psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -c "create database $db"
	psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$db" -f "/docker-entrypoint-initdb.d/sql/$db.sql"
done
