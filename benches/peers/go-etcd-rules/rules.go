package main

import (
	"context"
	"log"
	"strconv"

	"github.com/IBM-Cloud/go-etcd-rules/rules"
	v3 "go.etcd.io/etcd/client/v3"
)

const (
	job     = "/jobs/:id"
	jobLock = "/locks/jobs/:id"
)

// addRules adds those of the work: the conditions and effects that `benches/etcd/engine.rs` has.
func addRules(engine rules.V3Engine, asked spec, client *v3.Client, times *times) error {
	switch w := asked.Work; {
	case w.Latency != nil:
		there, err := exists(job)
		if err != nil {
			return err
		}
		engine.AddRule(there, jobLock, timed(client, times), rules.RuleID("job"))
		if w.Latency.Items {
			return addItems(engine)
		}
	case w.Burst != nil:
		isNew, err := equals(job, "new")
		if err != nil {
			return err
		}
		goes, err := exists("/go")
		if err != nil {
			return err
		}
		engine.AddRule(rules.NewAndRule(isNew, goes), jobLock, done(client), rules.RuleID("job"))
	case w.Stream != nil:
		isNew, err := equals(job, "new")
		if err != nil {
			return err
		}
		engine.AddRule(isNew, jobLock, done(client), rules.RuleID("job"))
	case w.Ready != nil:
		return addItems(engine)
	}
	return nil
}

// addItems adds a rule over many items, none of which is active.
func addItems(engine rules.V3Engine) error {
	active, err := equals("/items/:id", "active")
	if err != nil {
		return err
	}
	enabled, err := exists("/enabled")
	if err != nil {
		return err
	}
	nothing := func(*rules.V3RuleTask) {}
	engine.AddRule(rules.NewAndRule(active, enabled), "/locks/items/:id", nothing, rules.RuleID("item"))
	return nil
}

func equals(pattern, value string) (rules.DynamicRule, error) {
	return rules.NewEqualsLiteralRule(pattern, &value)
}

func exists(pattern string) (rules.DynamicRule, error) {
	absent, err := rules.NewEqualsLiteralRule(pattern, nil)
	if err != nil {
		return nil, err
	}
	return rules.NewNotRule(absent), nil
}

// timed notes when the callback started, and deletes the job. A callback is not given values: the deletion returns
// the time that the job carries, so that no other request is needed.
func timed(client *v3.Client, times *times) rules.V3RuleTaskCallback {
	return func(task *rules.V3RuleTask) {
		now := clock()
		deleted, err := client.Delete(task.Context, task.Attr.Format(job), v3.WithPrevKV())
		if err != nil {
			log.Printf("deletion: %v", err)
			return
		}
		for _, kv := range deleted.PrevKvs {
			start, err := strconv.ParseInt(string(kv.Value), 10, 64)
			if err == nil && start > 0 {
				times.note(now - start)
			}
		}
	}
}

// done makes a job done.
func done(client *v3.Client) rules.V3RuleTaskCallback {
	return func(task *rules.V3RuleTask) {
		if err := put(task.Context, client, task.Attr.Format(job), "done"); err != nil {
			log.Printf("put: %v", err)
		}
	}
}

func put(ctx context.Context, client *v3.Client, key, value string) error {
	_, err := client.Put(ctx, key, value)
	return err
}
