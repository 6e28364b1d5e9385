// Package bench measures outrelay beside what bounds it, or what a user would pick instead: pg_recvlogical, pgbench, kfake, the disk. It never
// looks inside of the process it measures: outrelay runs as a child, and every figure comes from the databases, the log as a Kafka client sees it, or
// the HTTP endpoints that an operator has.
//
// A machine is noisy and no two are alike, so what counts is a ratio: both sides run on the same machine, in the same run, by turns, and the
// median of the ratios of the rounds is compared with the target.
package bench
