// Package broker is the log's server: listeners, framing, dispatch and one file per Kafka API key, over the partitions of this node.
// It knows nothing of outboxes, sources or sinks, and never decodes the records it passes on.
//
// # Where things are
//
//	server.go      life: lock, identity, storage, start and stop        conn.go       one connection: reader, writer, order of answers
//	listener.go    TCP and in-memory listeners, connection limits       memconn.go    the buffered in-memory connection
//	wire.go        readers and appenders of the protocol's primitives   frame.go      bounded reading of frames, request headers
//	schema.go      the shape of every request served: checked before anything is decoded
//	apis.go        the table of APIs; api_<name>.go one per key, headed by versions and KIPs
//	topics.go      partitions of this node, kept in step with group 0   fetch_*.go    sessions, response encoder
//	coord_*.go     the shells of the group and transaction coordinators
//	session.go     who a client is, and what it may cost before that is known; addresses.go: limits of one address
//	access.go      users, access control lists and quotas in force      guard*.go     what of a request a client may have, by API
//	audit.go       the log of denials                                   quotas.go     what clients use, and how long they are throttled
//
// # Goroutines of a connection
//
// A reader decodes requests and starts them in order; a writer completes them in the same order, so that several produces wait for
// one fsync together while answers never overtake each other. Both end when either fails; the server waits for them.
//
// # Limits
//
// Everything a client can make the server hold is bounded: the frame size by API, pipelined requests per connection, connections, and
// the bytes of Produce bodies in flight over all connections. The last one is taken before the body is read, so that a full server
// stops reading sockets; it never delays a commit, a fetch or anything else.
package broker
