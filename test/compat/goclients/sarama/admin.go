package main

import (
	"fmt"
	"slices"

	"github.com/IBM/sarama"

	"github.com/outrelay/outrelay/test/compat/goclients/check"
)

func runAdmin() {
	a, err := sarama.NewClusterAdmin(brokers(), config())
	if err != nil {
		check.Run("admin", func() error { return err })
		return
	}
	defer a.Close()
	check.Run("topics: create, describe, configure, grow, delete", func() error { return topics(a) })
	check.Run("delete records", func() error { return deleteRecords(a) })
	check.Run("groups: list, describe, reset, delete", func() error { return groups(a) })
	check.Run("cluster and log directories", func() error { return cluster(a) })
}

func createTopic(name string) error {
	a, err := sarama.NewClusterAdmin(brokers(), config())
	if err != nil {
		return err
	}
	defer a.Close()
	return a.CreateTopic(name, &sarama.TopicDetail{NumPartitions: check.Partitions, ReplicationFactor: 1}, false)
}

func configOf(a sarama.ClusterAdmin, topic, name string) (string, error) {
	entries, err := a.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name == name {
			return e.Value, nil
		}
	}
	return "", fmt.Errorf("no %s in %d entries", name, len(entries))
}

func topics(a sarama.ClusterAdmin) error {
	minute := "60000"
	detail := &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &minute}}
	if err := a.CreateTopic("sarama.admin", detail, true); err != nil {
		return fmt.Errorf("validate only: %w", err)
	}
	if err := a.CreateTopic("sarama.admin", detail, false); err != nil {
		return err
	}
	if err := a.CreateTopic("sarama.admin", detail, false); err == nil {
		return fmt.Errorf("a topic was created twice")
	}
	if v, err := configOf(a, "sarama.admin", "retention.ms"); err != nil || v != minute {
		return fmt.Errorf("retention.ms %q, %v", v, err)
	}
	hour := "3600000"
	if err := a.IncrementalAlterConfig(sarama.TopicResource, "sarama.admin", map[string]sarama.IncrementalAlterConfigsEntry{
		"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &hour}}, false); err != nil {
		return err
	}
	if v, err := configOf(a, "sarama.admin", "retention.ms"); err != nil || v != hour {
		return fmt.Errorf("altered retention.ms %q, %v", v, err)
	}
	if err := a.AlterConfig(sarama.TopicResource, "sarama.admin", map[string]*string{"max.message.bytes": &hour}, false); err != nil {
		return err
	}
	if v, err := configOf(a, "sarama.admin", "retention.ms"); err != nil || v == hour {
		return fmt.Errorf("AlterConfigs replaces all: retention.ms %q, %v", v, err)
	}
	if err := a.CreatePartitions("sarama.admin", 5, nil, false); err != nil {
		return err
	}
	all, err := a.ListTopics()
	if err != nil || all["sarama.admin"].NumPartitions != 5 {
		return fmt.Errorf("%+v, %v", all["sarama.admin"], err)
	}
	if err := a.DeleteTopic("sarama.admin"); err != nil {
		return err
	}
	if all, err = a.ListTopics(); err != nil {
		return err
	}
	if _, there := all["sarama.admin"]; there {
		return fmt.Errorf("the topic is there after its deletion")
	}
	return nil
}

func deleteRecords(a sarama.ClusterAdmin) error {
	if err := a.DeleteRecords("out.none", map[int32]int64{0: 10}); err != nil {
		return err
	}
	c, err := sarama.NewClient(brokers(), config())
	if err != nil {
		return err
	}
	defer c.Close()
	if at, err := c.GetOffset("out.none", 0, sarama.OffsetOldest); err != nil || at != 10 {
		return fmt.Errorf("log start offset %d, %v", at, err)
	}
	return nil
}

func groups(a sarama.ClusterAdmin) error {
	list, err := a.ListConsumerGroups()
	if err != nil || list["saramas"] != "consumer" {
		return fmt.Errorf("%v, %v", list, err)
	}
	described, err := a.DescribeConsumerGroups([]string{"saramas"})
	if err != nil || len(described) != 1 || described[0].State != "Empty" {
		return fmt.Errorf("%+v, %v", described, err)
	}
	reset := map[string]map[int32]sarama.OffsetAndMetadata{"sarama.group": {0: {Offset: 3, LeaderEpoch: -1}}}
	if _, err := a.AlterConsumerGroupOffsets("saramas", reset, nil); err != nil {
		return err
	}
	fetched, err := a.ListConsumerGroupOffsets("saramas", map[string][]int32{"sarama.group": {0}})
	if err != nil || fetched.GetBlock("sarama.group", 0).Offset != 3 {
		return fmt.Errorf("%+v, %v", fetched, err)
	}
	if err := a.DeleteConsumerGroupOffset("saramas", "sarama.group", 0); err != nil {
		return err
	}
	if err := a.DeleteConsumerGroup("saramas"); err != nil {
		return err
	}
	if list, err = a.ListConsumerGroups(); err != nil {
		return err
	}
	if _, there := list["saramas"]; there {
		return fmt.Errorf("the group is there after its deletion")
	}
	return nil
}

func cluster(a sarama.ClusterAdmin) error {
	nodes, controller, err := a.DescribeCluster()
	if err != nil || len(nodes) != 1 || nodes[0].ID() != controller {
		return fmt.Errorf("%v, controller %d, %v", nodes, controller, err)
	}
	dirs, err := a.DescribeLogDirs([]int32{controller})
	if err != nil || len(dirs[controller]) != 1 || !slices.ContainsFunc(dirs[controller][0].Topics, func(t sarama.DescribeLogDirsResponseTopic) bool { return t.Topic == "in.none" }) {
		return fmt.Errorf("%+v, %v", dirs, err)
	}
	return nil
}
