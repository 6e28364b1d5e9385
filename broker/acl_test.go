package broker_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/brokertest"
)

// need is one ACL without which an API is denied.
type need struct {
	op auth.Operation
	t  auth.ResourceType
}

// guarded is one API in the table: how it is asked about topic, group and transactional id "secret", and what that needs. code is how a denial is
// answered; 0 means that the thing is left out.
type guarded struct {
	key   int16
	needs []need
	code  *kerr.Error
	ask   func(top, group, txn string, id [16]byte) kmsg.Request
}

// tooLittle returns what is not enough: nothing, and everything but one.
func (g guarded) tooLittle() (lists [][]need) {
	if len(g.needs) == 0 {
		return nil
	}
	lists = [][]need{nil}
	for i := range g.needs {
		if len(g.needs) > 1 {
			lists = append(lists, slices.Delete(slices.Clone(g.needs), i, i+1))
		}
	}
	return lists
}

func acls(list ...need) []need { return list }

const secret = "secret"

// guardedAPIs has a row for every API that is served but the three that come before authentication: TestACL_everyAPI holds that.
func guardedAPIs() []guarded {
	topicDenied, groupDenied, clusterDenied, txnDenied := kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed
	cluster := func(op auth.Operation) []need { return acls(need{op, auth.Cluster}) }
	topic := func(op auth.Operation) []need { return acls(need{op, auth.Topic}) }
	group := func(op auth.Operation) []need { return acls(need{op, auth.Group}) }
	txn := func(op auth.Operation) []need { return acls(need{op, auth.TransactionalID}) }
	type ids = [16]byte
	return []guarded{
		{0, topic(auth.Write), topicDenied, func(top, _, _ string, _ ids) kmsg.Request { return produceRequest(top, 0, plainBatch("v")) }},
		{1, topic(auth.Read), topicDenied, func(top, _, _ string, _ ids) kmsg.Request { return fetchRequest(top, 0, 0, 0) }},
		{2, topic(auth.Describe), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(2, `{"ReplicaID":-1,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0,"Timestamp":-1,"CurrentLeaderEpoch":-1}]}]}`, top)
		}},
		{3, topic(auth.Describe), topicDenied, func(top, _, _ string, _ ids) kmsg.Request { return ofJSON(3, `{"Topics":[{"Topic":"%s"}]}`, top) }},
		{8, acls(need{auth.Read, auth.Group}, need{auth.Read, auth.Topic}), nil, func(top, g, _ string, _ ids) kmsg.Request {
			return ofJSON(8, `{"Group":"%s","Generation":-1,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0,"Offset":1,"LeaderEpoch":-1}]}]}`, g, top)
		}},
		{9, acls(need{auth.Describe, auth.Group}, need{auth.Describe, auth.Topic}), nil, func(top, g, _ string, _ ids) kmsg.Request {
			return ofJSON(9, `{"Groups":[{"Group":"%s","MemberEpoch":-1,"Topics":[{"Topic":"%s","Partitions":[0]}]}]}`, g, top)
		}},
		{10, group(auth.Describe), groupDenied, func(_, g, _ string, _ ids) kmsg.Request { return ofJSON(10, `{"CoordinatorKeys":["%s"]}`, g) }},
		{11, group(auth.Read), groupDenied, func(_, g, _ string, _ ids) kmsg.Request {
			return ofJSON(11, `{"Group":"%s","SessionTimeoutMillis":10000,"RebalanceTimeoutMillis":10000,"ProtocolType":"consumer","Protocols":[{"Name":"range","Metadata":""}]}`, g)
		}},
		{12, group(auth.Read), groupDenied, func(_, g, _ string, _ ids) kmsg.Request {
			return ofJSON(12, `{"Group":"%s","MemberID":"m","Generation":1}`, g)
		}},
		{13, group(auth.Read), groupDenied, func(_, g, _ string, _ ids) kmsg.Request {
			return ofJSON(13, `{"Group":"%s","Members":[{"MemberID":"m"}]}`, g)
		}},
		{14, group(auth.Read), groupDenied, func(_, g, _ string, _ ids) kmsg.Request {
			return ofJSON(14, `{"Group":"%s","MemberID":"m","Generation":1}`, g)
		}},
		{15, group(auth.Describe), groupDenied, func(_, g, _ string, _ ids) kmsg.Request { return ofJSON(15, `{"Groups":["%s"]}`, g) }},
		{16, group(auth.Describe), nil, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(16, `{}`) }},
		{19, topic(auth.Create), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(19, `{"TimeoutMillis":5000,"ValidateOnly":true,"Topics":[{"Topic":"%s","NumPartitions":1,"ReplicationFactor":1}]}`, top)
		}},
		{20, topic(auth.Delete), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(20, `{"TimeoutMillis":5000,"Topics":[{"Topic":"%s"}]}`, top)
		}},
		{21, topic(auth.Delete), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(21, `{"TimeoutMillis":5000,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0,"Offset":0}]}]}`, top)
		}},
		{22, txn(auth.Write), txnDenied, func(_, _, x string, _ ids) kmsg.Request {
			return ofJSON(22, `{"TransactionalID":"%s","TransactionTimeoutMillis":10000,"ProducerID":-1,"ProducerEpoch":-1}`, x)
		}},
		{23, topic(auth.Describe), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(23, `{"ReplicaID":-1,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0,"CurrentLeaderEpoch":-1}]}]}`, top)
		}},
		{24, acls(need{auth.Write, auth.TransactionalID}, need{auth.Write, auth.Topic}), nil, func(top, _, x string, _ ids) kmsg.Request {
			return ofJSONAt(24, 3, `{"TransactionalID":"%s","ProducerID":1,"Topics":[{"Topic":"%s","Partitions":[0]}]}`, x, top)
		}},
		{25, acls(need{auth.Write, auth.TransactionalID}, need{auth.Read, auth.Group}), nil, func(_, g, x string, _ ids) kmsg.Request {
			return ofJSON(25, `{"TransactionalID":"%s","ProducerID":1,"Group":"%s"}`, x, g)
		}},
		{26, txn(auth.Write), txnDenied, func(_, _, x string, _ ids) kmsg.Request {
			return ofJSON(26, `{"TransactionalID":"%s","ProducerID":1}`, x)
		}},
		{27, cluster(auth.Alter), clusterDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(27, `{"Markers":[{"ProducerID":1,"Topics":[{"Topic":"%s","Partitions":[0]}]}]}`, top)
		}},
		{28, acls(need{auth.Write, auth.TransactionalID}, need{auth.Read, auth.Group}, need{auth.Read, auth.Topic}), nil, func(top, g, x string, _ ids) kmsg.Request {
			return ofJSON(28, `{"TransactionalID":"%s","Group":"%s","ProducerID":1,"Generation":-1,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0,"Offset":1,"LeaderEpoch":-1}]}]}`, x, g, top)
		}},
		{29, cluster(auth.Describe), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(29, `{"ResourceType":"ANY","ResourcePatternType":"ANY","Operation":"ANY","PermissionType":"ANY"}`)
		}},
		{30, cluster(auth.Alter), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(30, `{"Creations":[{"ResourceType":"TOPIC","ResourceName":"x","ResourcePatternType":"LITERAL","Principal":"User:z","Host":"*","Operation":"READ","PermissionType":"ALLOW"}]}`)
		}},
		{31, cluster(auth.Alter), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(31, `{"Filters":[{"ResourceType":"TOPIC","ResourceName":"x","ResourcePatternType":"LITERAL","Operation":"ANY","PermissionType":"ANY"}]}`)
		}},
		{32, topic(auth.DescribeConfigs), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(32, `{"Resources":[{"ResourceType":"TOPIC","ResourceName":"%s"}]}`, top)
		}},
		{33, topic(auth.AlterConfigs), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(33, `{"ValidateOnly":true,"Resources":[{"ResourceType":"TOPIC","ResourceName":"%s"}]}`, top)
		}},
		{34, cluster(auth.Alter), clusterDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(34, `{"Dirs":[{"Dir":"/d","Topics":[{"Topic":"%s","Partitions":[0]}]}]}`, top)
		}},
		{35, cluster(auth.Describe), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(35, `{}`) }},
		{37, topic(auth.Alter), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(37, `{"TimeoutMillis":5000,"ValidateOnly":true,"Topics":[{"Topic":"%s","Count":9}]}`, top)
		}},
		{42, group(auth.Delete), groupDenied, func(_, g, _ string, _ ids) kmsg.Request { return ofJSON(42, `{"Groups":["%s"]}`, g) }},
		{43, cluster(auth.Alter), clusterDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(43, `{"TimeoutMillis":5000,"Topics":[{"Topic":"%s","Partitions":[0]}]}`, top)
		}},
		{44, topic(auth.AlterConfigs), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(44, `{"ValidateOnly":true,"Resources":[{"ResourceType":"TOPIC","ResourceName":"%s"}]}`, top)
		}},
		{45, cluster(auth.Alter), clusterDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(45, `{"TimeoutMillis":5000,"Topics":[{"Topic":"%s","Partitions":[{"Partition":0}]}]}`, top)
		}},
		{46, cluster(auth.Describe), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(46, `{"TimeoutMillis":5000}`) }},
		{47, acls(need{auth.Delete, auth.Group}, need{auth.Read, auth.Topic}), nil, func(top, g, _ string, _ ids) kmsg.Request {
			return ofJSON(47, `{"Group":"%s","Topics":[{"Topic":"%s","Partitions":[{"Partition":0}]}]}`, g, top)
		}},
		{48, cluster(auth.DescribeConfigs), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(48, `{}`) }},
		{49, cluster(auth.AlterConfigs), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(49, `{"ValidateOnly":true,"Entries":[{"Entity":[{"Type":"user","Name":"x"}],"Ops":[{"Key":"producer_byte_rate","Value":1000}]}]}`)
		}},
		{50, cluster(auth.Describe), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(50, `{}`) }},
		{51, cluster(auth.Alter), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(51, `{"Deletions":[{"Name":"z","Mechanism":1}]}`)
		}},
		{55, cluster(auth.Describe), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(55, `{"Topics":[{"Topic":"__cluster_metadata","Partitions":[{"Partition":0}]}]}`)
		}},
		{57, cluster(auth.Alter), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request {
			return ofJSON(57, `{"TimeoutMillis":5000,"ValidateOnly":true,"FeatureUpdates":[{"Feature":"group.version","MaxVersionLevel":1,"UpgradeType":1}]}`)
		}},
		{60, nil, nil, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(60, `{"EndpointType":1}`) }},
		{61, topic(auth.Read), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(61, `{"Topics":[{"Topic":"%s","Partitions":[0]}]}`, top)
		}},
		{65, txn(auth.Describe), txnDenied, func(_, _, x string, _ ids) kmsg.Request { return ofJSON(65, `{"TransactionalIDs":["%s"]}`, x) }},
		{66, txn(auth.Describe), nil, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(66, `{"DurationFilterMillis":-1}`) }},
		{68, group(auth.Read), groupDenied, func(_, g, _ string, _ ids) kmsg.Request {
			return ofJSON(68, `{"Group":"%s","MemberID":"m","MemberEpoch":5,"RebalanceTimeoutMillis":-1}`, g)
		}},
		{69, group(auth.Describe), groupDenied, func(_, g, _ string, _ ids) kmsg.Request { return ofJSON(69, `{"Groups":["%s"]}`, g) }},
		{74, cluster(auth.DescribeConfigs), clusterDenied, func(_, _, _ string, _ ids) kmsg.Request { return ofJSON(74, `{}`) }},
		{75, topic(auth.Describe), topicDenied, func(top, _, _ string, _ ids) kmsg.Request {
			return ofJSON(75, `{"ResponsePartitionLimit":10,"Topics":[{"Topic":"%s"}]}`, top)
		}},
	}
}

// ofJSON makes a request of its JSON, at the highest version that is served; ofJSONAt at another.
func ofJSON(key int16, format string, args ...any) kmsg.Request {
	return ofJSONAt(key, -1, format, args...)
}

func ofJSONAt(key, version int16, format string, args ...any) kmsg.Request {
	req := kmsg.RequestForKey(key)
	if err := json.Unmarshal(fmt.Appendf(nil, format, args...), req); err != nil {
		panic(fmt.Sprintf("BUG: request of api %d: %v", key, err))
	}
	req.SetVersion(version)
	return req
}

// authorizationCodes returns the codes of denial in an answer, sorted, each once.
func authorizationCodes(resp kmsg.Response) (codes []int16) {
	denials := []int16{
		kerr.TopicAuthorizationFailed.Code, kerr.GroupAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code, kerr.TransactionalIDAuthorizationFailed.Code,
	}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				walk(v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Field(i); v.Type().Field(i).Name == "ErrorCode" {
					if code := int16(f.Int()); slices.Contains(denials, code) && !slices.Contains(codes, code) {
						codes = append(codes, code)
					}
				} else if v.Type().Field(i).IsExported() {
					walk(f)
				}
			}
		default:
		}
	}
	walk(reflect.ValueOf(resp))
	slices.Sort(codes)
	return codes
}

// TestACL_everyAPI: every API key × {nobody, who has all ACLs it needs but one, who has all, a super user} × {a resource that exists, one that does
// not, one of outrelay's own}.
func TestACL_everyAPI(t *testing.T) {
	t.Parallel()
	logs := &logLines{}
	n := brokertest.New(t, secured, func(o *broker.Options) { o.Logger = slog.New(slog.NewTextHandler(logs, nil)) })
	admin := dialRaw(t, n)
	login(admin, "admin", canaryAdmin)
	var id [16]byte = createTopic(t, admin, secret, 1).TopicID
	maxOf := map[int16]int16{}
	rows := guardedAPIs()
	for _, a := range broker.ServedAPIs() {
		maxOf[a.Key] = a.Max
		if i := slices.IndexFunc(rows, func(g guarded) bool { return g.key == a.Key }); i < 0 && a.Key != 17 && a.Key != 18 && a.Key != 36 {
			t.Errorf("api %d (%s) has no row in the table of access control: who may ask it, about what?", a.Key, kmsg.NameForKey(a.Key))
		}
	}
	ask := func(c *rawConn, g guarded, top, group, txn string) kmsg.Response {
		req := g.ask(top, group, txn, id)
		version := maxOf[g.key]
		if v := req.GetVersion(); v >= 0 && g.key == 24 {
			version = v
		}
		if g.key == 0 || g.key == 1 {
			version = 12 // by name
		}
		if g.key == 8 || g.key == 9 || g.key == 28 {
			version = min(version, map[int16]int16{8: 9, 9: 9, 28: 5}[g.key])
		}
		return request[kmsg.Response](c, req, version)
	}
	for _, g := range rows {
		name := kmsg.NameForKey(g.key)
		if _, served := maxOf[g.key]; !served {
			t.Errorf("%s stands in the table and is not served", name)
			continue
		}
		for _, of := range []struct {
			what string
			res  string
			own  bool
		}{{"what exists", secret, false}, {"what does not exist", "missing", false}, {"outrelay's own", "__outrelay_positions", true}} {
			top, group, txn := of.res, of.res, of.res
			if of.own {
				top, group, txn = "__outrelay_positions", "outrelay-relay", "outrelay-shop"
			}
			for _, granted := range g.tooLittle() {
				clearACLs(admin)
				for _, nd := range granted {
					grant(admin, nd, "*")
				}
				c := dialRaw(t, n)
				login(c, "alice", canaryAlice)
				resp := ask(c, g, top, group, txn)
				codes := authorizationCodes(resp)
				switch {
				case g.code == nil && len(g.needs) == 1: // it is left out
					if b, _ := json.Marshal(resp); strings.Contains(string(b), secret) || len(codes) != 0 {
						t.Errorf("%s about %s: shows %s, codes %v", name, of.what, b, codes)
					}
				case len(codes) == 0:
					t.Errorf("%s about %s with %v of %v: not denied: %+v", name, of.what, granted, g.needs, resp)
				case g.code != nil && !slices.Equal(codes, []int16{g.code.Code}):
					t.Errorf("%s about %s: codes %v, want %d", name, of.what, codes, g.code.Code)
				}
				_ = c.Close()
			}
			if g.key == 20 || len(g.needs) == 0 {
				continue // deleting is shown by what is denied
			}
			clearACLs(admin)
			for _, nd := range g.needs {
				grant(admin, nd, "*")
			}
			c := dialRaw(t, n)
			login(c, "alice", canaryAlice)
			codes := authorizationCodes(ask(c, g, top, group, txn))
			usesOwn := of.own && slices.ContainsFunc(g.needs, func(nd need) bool { return nd.t != auth.Cluster }) && g.code != nil
			switch {
			case usesOwn && len(codes) == 0:
				t.Errorf("%s about outrelay's own: allowed by an ACL for everything", name)
			case !of.own && len(codes) != 0:
				t.Errorf("%s about %s with all it needs: denied with %v", name, of.what, codes)
			}
			if codes := authorizationCodes(ask(admin, g, top, group, txn)); len(codes) != 0 {
				t.Errorf("%s about %s by a super user: denied with %v", name, of.what, codes)
			}
			_ = c.Close()
		}
	}
	if !strings.Contains(logs.String(), "code=access-denied") || !strings.Contains(logs.String(), "principal=User:alice") {
		t.Error("no denial stands in the audit log")
	}
}

func clearACLs(admin *rawConn) {
	admin.t.Helper()
	req := ofJSON(31, `{"Filters":[{"ResourceType":"ANY","ResourcePatternType":"ANY","Operation":"ANY","PermissionType":"ANY"}]}`)
	if r := request[*kmsg.DeleteACLsResponse](admin, req, 3); r.Results[0].ErrorCode != 0 {
		admin.t.Fatalf("delete all ACLs: %+v", r)
	}
}

func grant(admin *rawConn, nd need, name string) {
	admin.t.Helper()
	if nd.t == auth.Cluster {
		name = auth.ClusterName
	}
	req := kmsg.NewPtrCreateACLsRequest()
	req.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: nd.t, ResourceName: name, ResourcePatternType: kmsg.ACLResourcePatternTypeLiteral,
		Principal: "User:alice", Host: "*", Operation: nd.op, PermissionType: kmsg.ACLPermissionTypeAllow}}
	if r := request[*kmsg.CreateACLsResponse](admin, req, 3); r.Results[0].ErrorCode != 0 {
		admin.t.Fatalf("create ACL: %+v", r)
	}
}
