// Package deps is here while the rooms are being built; it goes.
package deps

import (
	_ "github.com/VirusTotal/vt-go"
	_ "github.com/elastic/go-lumber/client/v2"
	_ "github.com/elastic/go-lumber/server/v2"
	_ "github.com/klauspost/compress/zlib"
	_ "github.com/patrickmn/go-cache"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/stretchr/testify/require"
	_ "github.com/urfave/cli/v2"
	_ "github.com/zeebo/xxh3"
	_ "go.uber.org/goleak"
	_ "go.yaml.in/yaml/v3"
	_ "golang.org/x/net/idna"
	_ "golang.org/x/net/publicsuffix"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
)
