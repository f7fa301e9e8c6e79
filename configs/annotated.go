package configs

import _ "embed"

// Annotated is a settings file with every setting, its default and its meaning.
//
//go:embed vtsidecar.yml
var Annotated string
