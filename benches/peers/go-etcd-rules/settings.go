package main

import (
	"context"

	"github.com/IBM-Cloud/go-etcd-rules/rules"
)

const (
	defaults = "Defaults"
	best     = "Best"
)

// options are those of the engine: none, or what `RESULTS.md` calls the best settings.
func (asked spec) options() []rules.EngineOption {
	if asked.Side.Peer == defaults {
		return nil
	}
	options := []rules.EngineOption{
		// Workers, one callback each (default 5).
		rules.EngineConcurrency(16),
		// Readers of what changed (default 5), and what may wait for them (default 1,000).
		rules.KeyProcessorConcurrency(16),
		rules.KeyProcessorBuffer(10_000),
		// What may wait for a worker (default nothing).
		rules.EngineRuleWorkBuffer(10_000),
		// Keys whose own value makes a rule false need no read of its other keys (default off).
		rules.EngineEnhancedRuleFilter(true),
		// The shortest rest of a crawl after each key, in milliseconds (default 2).
		rules.EngineSyncDelay(1),
		// Contexts without a timer (default 5 minutes, never cancelled, two a firing).
		rules.EngineContextProvider(func() (context.Context, context.CancelFunc) {
			return context.Background(), func() {}
		}),
		// A lock that is held is not waited for (default 5 s). Sessions are shared by default.
		rules.EngineUseTryLock(),
	}
	if asked.Work.Burst != nil {
		// A change of a key that binds no attribute is found by a crawl only: seconds between two (default 300).
		options = append(options, rules.EngineSyncInterval(2))
	}
	return options
}
