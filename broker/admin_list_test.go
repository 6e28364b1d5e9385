package broker_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
)

func TestListConfigResources(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "a", 1)
	createTopic(t, dialRaw(t, n), "b", 1)
	versions(t, 74, n, func(t *testing.T, c *rawConn, v int16) {
		list := func(kinds ...int8) (names []string, code int16) {
			req := kmsg.NewPtrListConfigResourcesRequest()
			req.ResourceTypes = kinds
			r := request[*kmsg.ListConfigResourcesResponse](c, req, v)
			for _, cr := range r.ConfigResources {
				names = append(names, fmt.Sprintf("%d/%s", cr.Type, cr.Name))
			}
			return names, r.ErrorCode
		}
		if v == 0 { // client metrics: there are none
			if got, code := list(); code != 0 || len(got) != 0 {
				t.Errorf("v0: %v, error %d", got, code)
			}
			return
		}
		for _, tc := range []struct {
			kinds []int8
			want  []string
			code  int16
		}{
			{nil, []string{"2/a", "2/b", "4/1"}, 0},
			{[]int8{2}, []string{"2/a", "2/b"}, 0},
			{[]int8{4}, []string{"4/1"}, 0},
			{[]int8{8, 16, 32}, nil, 0},
			{[]int8{2, 99}, nil, kerr.UnsupportedVersion.Code},
		} {
			if got, code := list(tc.kinds...); code != tc.code || !slices.Equal(got, tc.want) {
				t.Errorf("v%d %v: %v, error %d", v, tc.kinds, got, code)
			}
		}
	})
}

// Page after page, each partition comes once.
func TestDescribeTopicPartitions_pages(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	for i, name := range []string{"a", "b", "c"} {
		createTopic(t, c, name, int32(i)+2)
	}
	for _, asked := range [][]string{nil, {"c", "missing", "a", "b", "a"}} {
		for limit := int32(-1); limit < 12; limit++ {
			req := kmsg.NewPtrDescribeTopicPartitionsRequest()
			for _, name := range asked {
				req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
			}
			req.ResponsePartitionLimit = limit
			var got, unknown []string
			for {
				r := request[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
				page := 0
				for _, st := range r.Topics {
					if st.ErrorCode != 0 {
						unknown = append(unknown, fmt.Sprintf("%s %d", *st.Topic, st.ErrorCode))
						continue
					}
					page += len(st.Partitions)
					for _, sp := range st.Partitions {
						got = append(got, fmt.Sprintf("%s/%d", *st.Topic, sp.Partition))
						if sp.LeaderID != 1 || !slices.Equal(sp.ISR, []int32{1}) || !slices.Equal(sp.Replicas, []int32{1}) || sp.ErrorCode != 0 {
							t.Fatalf("%+v", sp)
						}
					}
				}
				if page > max(int(limit), 1) {
					t.Fatalf("%d partitions in a page of %d", page, limit)
				}
				if r.NextCursor == nil {
					break
				}
				req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: r.NextCursor.Topic, Partition: r.NextCursor.Partition}
			}
			if want := []string{"a/0", "a/1", "b/0", "b/1", "b/2", "c/0", "c/1", "c/2", "c/3"}; !slices.Equal(got, want) {
				t.Errorf("limit %d: %v", limit, got)
			}
			if asked != nil && !slices.Equal(unknown, []string{fmt.Sprintf("missing %d", kerr.UnknownTopicOrPartition.Code)}) {
				t.Errorf("limit %d: unknown topics %v", limit, unknown)
			}
		}
	}
}

func TestDescribeTopicPartitions_refuses(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "a", 1)
	for _, tc := range []struct {
		name   string
		topic  string
		cursor *kmsg.DescribeTopicPartitionsRequestCursor
		want   int16
	}{
		{"known", "a", nil, 0},
		{"invalid name", "a/b", nil, kerr.InvalidTopicException.Code},
		{"cursor below zero", "a", &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "a", Partition: -1}, kerr.InvalidRequest.Code},
		{"cursor elsewhere", "a", &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "b"}, kerr.InvalidRequest.Code},
		{"cursor beyond the end", "a", &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "a", Partition: 1 << 30}, 0},
	} {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: tc.topic}}
		req.Cursor = tc.cursor
		r := request[*kmsg.DescribeTopicPartitionsResponse](c, req, 0)
		if len(r.Topics) != 1 || r.Topics[0].ErrorCode != tc.want {
			t.Errorf("%s: %+v", tc.name, r.Topics)
		}
	}
}

// What may be done is told to who asks, and to nobody else.
func TestAuthorizedOperations(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "a", 1)
	const none, topic, cluster = -1 << 31, 3576, 8096 // Kafka's own figures, without an authorizer
	for _, asked := range []bool{true, false} {
		want := func(ops int32) int32 {
			if asked {
				return ops
			}
			return none
		}
		m := kmsg.NewPtrMetadataRequest()
		m.IncludeTopicAuthorizedOperations, m.IncludeClusterAuthorizedOperations = asked, asked
		m.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("a")}}
		if r := request[*kmsg.MetadataResponse](c, m, 10); r.Topics[0].AuthorizedOperations != want(topic) || r.AuthorizedOperations != want(cluster) {
			t.Errorf("Metadata, asked %v: topic %d, cluster %d", asked, r.Topics[0].AuthorizedOperations, r.AuthorizedOperations)
		}
		d := kmsg.NewPtrDescribeClusterRequest()
		d.IncludeClusterAuthorizedOperations = asked
		if r := request[*kmsg.DescribeClusterResponse](c, d, 2); r.ClusterAuthorizedOperations != want(cluster) {
			t.Errorf("DescribeCluster, asked %v: %d", asked, r.ClusterAuthorizedOperations)
		}
	}
}

// Each special time is understood since its version, and refused before (KIP-79, 734, 405, 1005, 1023).
func TestListOffsets_specialTimes(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	request[*kmsg.ProduceResponse](c, produceRequest("t", 0, plainBatch("a", "b")), 9)
	versions(t, 2, n, func(t *testing.T, c *rawConn, v int16) {
		for _, tc := range []struct {
			time, want int64
			since      int16
		}{{-1, 2, 0}, {-2, 0, 0}, {-3, 0, 7}, {-4, 0, 8}, {-5, -1, 9}, {-6, -1, 11}, {-7, -1, 99}} {
			req := listOffset("t", tc.time)
			req.Topics[0].Partitions[0].MaxNumOffsets = 1
			sp := request[*kmsg.ListOffsetsResponse](c, req, v).Topics[0].Partitions[0]
			if v == 0 && len(sp.OldStyleOffsets) > 0 {
				sp.Offset = sp.OldStyleOffsets[0]
			}
			if known := v >= tc.since; known && (sp.ErrorCode != 0 || sp.Offset != tc.want) || !known && sp.ErrorCode != kerr.UnsupportedVersion.Code {
				t.Errorf("v%d: %d: error %d, offset %d", v, tc.time, sp.ErrorCode, sp.Offset)
			}
		}
	})
}
