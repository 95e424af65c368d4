module github.com/retally/retally

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	gopkg.in/yaml.v3 v3.0.1
)

require pgregory.net/rapid v1.3.0

require golang.org/x/sys v0.49.0 // indirect
