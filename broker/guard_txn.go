package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

// The guards of the APIs about producers and transactions.

// guardInitProducerID: without a transactional id, who may write to some topic may be idempotent (KIP-679).
func guardInitProducerID(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.InitProducerIDRequest)
	code := int16(0)
	switch {
	case req.TransactionalID != nil:
		if !g.may(auth.Write, auth.TransactionalID, *req.TransactionalID) {
			code = txnIDDenied.Code
		}
	case !g.s.access.now.Load().rules.AllowsAny(g.sess.who, g.sess.host, auth.Write, auth.Topic) && !g.cluster(auth.IdempotentWrite):
		code = clusterDenied.Code
	}
	if code == 0 {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code, -1, -1
	return resp, nil
}

// guardAddPartitionsToTxn: from v4 on it is for brokers only. Before, one topic that is denied keeps the others out.
func guardAddPartitionsToTxn(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AddPartitionsToTxnRequest)
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	if req.Version >= 4 {
		if g.cluster(auth.ClusterAction) {
			return nil, nil
		}
		resp.ErrorCode = clusterDenied.Code
		return resp, nil
	}
	refused := map[string]bool{}
	idOK := g.may(auth.Write, auth.TransactionalID, req.TransactionalID)
	for _, t := range req.Topics {
		if idOK && !g.may(auth.Write, auth.Topic, t.Topic) {
			refused[t.Topic] = true
		}
	}
	if idOK && len(refused) == 0 {
		return nil, nil
	}
	for _, t := range req.Topics {
		code := kerr.OperationNotAttempted.Code
		switch {
		case !idOK:
			code = txnIDDenied.Code
		case refused[t.Topic]:
			code = topicDenied.Code
		}
		st := kmsg.AddPartitionsToTxnResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			st.Partitions = append(st.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{Partition: p, ErrorCode: code})
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp, nil
}

func guardAddOffsetsToTxn(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.AddOffsetsToTxnRequest)
	resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	switch {
	case !g.may(auth.Write, auth.TransactionalID, req.TransactionalID):
		resp.ErrorCode = txnIDDenied.Code
	case !g.may(auth.Read, auth.Group, req.Group):
		resp.ErrorCode = groupDenied.Code
	default:
		return nil, nil
	}
	return resp, nil
}

func guardEndTxn(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.EndTxnRequest)
	if g.may(auth.Write, auth.TransactionalID, req.TransactionalID) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ErrorCode = txnIDDenied.Code
	return resp, nil
}

func guardWriteTxnMarkers(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.WriteTxnMarkersRequest)
	if g.can(auth.Alter, auth.Cluster, auth.ClusterName) || g.cluster(auth.ClusterAction) {
		return nil, nil
	}
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	for _, m := range req.Markers {
		sm := kmsg.WriteTxnMarkersResponseMarker{ProducerID: m.ProducerID}
		for _, t := range m.Topics {
			st := kmsg.WriteTxnMarkersResponseMarkerTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				st.Partitions = append(st.Partitions, kmsg.WriteTxnMarkersResponseMarkerTopicPartition{Partition: p, ErrorCode: clusterDenied.Code})
			}
			sm.Topics = append(sm.Topics, st)
		}
		resp.Markers = append(resp.Markers, sm)
	}
	return resp, nil
}

func guardTxnOffsetCommit(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.TxnOffsetCommitRequest)
	switch {
	case !g.may(auth.Write, auth.TransactionalID, req.TransactionalID):
		return txnOffsetErrors(req, txnIDDenied), nil
	case !g.may(auth.Read, auth.Group, req.Group):
		return txnOffsetErrors(req, groupDenied), nil
	}
	var denied []kmsg.TxnOffsetCommitRequestTopic
	req.Topics, denied = split(req.Topics, func(t *kmsg.TxnOffsetCommitRequestTopic) bool { return g.may(auth.Read, auth.Topic, t.Topic) })
	refused := *req
	refused.Topics = denied
	if len(req.Topics) == 0 && len(denied) > 0 {
		return txnOffsetErrors(&refused, topicDenied), nil
	}
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.TxnOffsetCommitResponse)
		resp.Topics = append(resp.Topics, txnOffsetErrors(&refused, topicDenied).(*kmsg.TxnOffsetCommitResponse).Topics...)
	}
}

// guardDescribeTransactions shows of a transaction the topics that the client may describe.
func guardDescribeTransactions(g *gate, kreq kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	req := kreq.(*kmsg.DescribeTransactionsRequest)
	var denied []string
	req.TransactionalIDs, denied = split(req.TransactionalIDs, func(id *string) bool { return g.may(auth.Describe, auth.TransactionalID, *id) })
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.DescribeTransactionsResponse)
		for i := range resp.TransactionStates {
			st := &resp.TransactionStates[i]
			st.Topics, _ = split(st.Topics, func(t *kmsg.DescribeTransactionsResponseTransactionStateTopic) bool {
				return g.can(auth.Describe, auth.Topic, t.Topic)
			})
		}
		for _, id := range denied {
			st := kmsg.NewDescribeTransactionsResponseTransactionState()
			st.TransactionalID, st.ErrorCode = id, txnIDDenied.Code
			resp.TransactionStates = append(resp.TransactionStates, st)
		}
	}
}

func guardListTransactions(g *gate, _ kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
	return nil, func(kresp kmsg.Response) {
		resp := kresp.(*kmsg.ListTransactionsResponse)
		resp.TransactionStates, _ = split(resp.TransactionStates, func(st *kmsg.ListTransactionsResponseTransactionState) bool {
			return g.can(auth.Describe, auth.TransactionalID, st.TransactionalID)
		})
	}
}
