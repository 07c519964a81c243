module etcd-rules/benches/peers/go-etcd-rules

go 1.25.0

require (
	github.com/IBM-Cloud/go-etcd-rules v1.7.29
	github.com/prometheus/client_golang v1.23.2
	github.com/prometheus/client_model v0.6.2
	go.etcd.io/etcd/client/v3 v3.6.11
	go.uber.org/zap v1.28.0
	golang.org/x/sys v0.44.0
)
