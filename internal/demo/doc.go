// Package demo shows the main job on a throwaway PostgreSQL: a shop under load, outrelay in a process of its own that is killed again and again, and a
// count from outside. It never looks inside of outrelay: what it says comes from the databases, the log and `outrelay audit`.
package demo
