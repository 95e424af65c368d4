module github.com/retally/retally

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	golang.org/x/sync v0.24.0
	gopkg.in/yaml.v3 v3.0.1
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/go-containerregistry v0.22.1 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)
