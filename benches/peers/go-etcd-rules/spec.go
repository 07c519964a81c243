package main

import (
	"encoding/json"
	"fmt"
)

// spec is what this process is to do: `benches/etcd/spec.rs` describes it.
type spec struct {
	Side struct {
		Peer string `json:"Peer"`
	} `json:"side"`
	Endpoint string `json:"endpoint"`
	Work     work   `json:"work"`
}

// work is one of these.
type work struct {
	Latency *latency  `json:"Latency"`
	Burst   *struct{} `json:"Burst"`
	Stream  *struct{} `json:"Stream"`
	Ready   *struct{} `json:"-"`
}

type latency struct {
	// A crawl from the start on.
	Crawl *uint64 `json:"crawl"`
	// A second rule, over many other keys.
	Items bool `json:"items"`
}

func parse(text string) (spec, error) {
	var asked spec
	if err := json.Unmarshal([]byte(text), &asked); err != nil {
		return spec{}, fmt.Errorf("specification: %w", err)
	}
	if asked.Side.Peer != defaults && asked.Side.Peer != best {
		return spec{}, fmt.Errorf("unknown settings %q", asked.Side.Peer)
	}
	w := asked.Work
	if w.Latency == nil && w.Burst == nil && w.Stream == nil && w.Ready == nil {
		return spec{}, fmt.Errorf("no work of the peer's: %s", text)
	}
	return asked, nil
}

// UnmarshalJSON takes a work without options, which is a string, too.
func (w *work) UnmarshalJSON(text []byte) error {
	if string(text) == `"Ready"` {
		w.Ready = &struct{}{}
		return nil
	}
	type plain work
	return json.Unmarshal(text, (*plain)(w))
}

// waitsForCrawl tells whether it is ready only once it has looked at every key that is there: not where live work
// beside a crawl is measured.
func (w *work) waitsForCrawl() bool {
	return w.Latency == nil || w.Latency.Crawl == nil
}
