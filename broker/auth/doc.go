// Package auth decides who a client is and what it may do: the server's side of SASL, access control lists, client quotas. It never
// reads a socket, a file or a clock, and logs nothing: the broker's connections and the cluster's state do.
//
// # SASL
//
// A Conversation takes what a client sends and returns what to answer. It is the same, in bytes and in work, for a user that does not exist and for
// a wrong password: an unknown user gets a salt that is made from its name and a secret of the cluster, and keys that nothing fits.
//
// Only what RFC 5802 calls stored keys is kept. A password is turned into them once, and dropped.
//
// # Access control
//
// Rules are the lists in force, indexed, immutable. A decision is made for one concrete resource and operation: super users may do everything, a
// DENY that matches wins over every ALLOW, and where nothing matches the answer is no.
package auth
