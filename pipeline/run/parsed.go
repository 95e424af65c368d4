package run

import (
	"context"
	"reflect"
	"sync"
)

// Source is where a parsed document comes from: a stage's In, which records
// that the stage read it, or the Reader itself.
type Source interface {
	from(ctx context.Context, name string, limit int64) ([]byte, *Reader, error)
}

func (in *In) from(ctx context.Context, name string, limit int64) ([]byte, *Reader, error) {
	data, err := in.ReadFile(ctx, name, limit)
	return data, in.reader, err
}

func (r *Reader) from(ctx context.Context, name string, limit int64) ([]byte, *Reader, error) {
	data, _, err := r.ReadFile(ctx, name, limit)
	return data, r, err
}

// parsedKey is a document in one of its readings.
type parsedKey struct {
	name string
	as   reflect.Type
}

type parsedDocument struct {
	once  sync.Once
	value any
	err   error
}

// Parsed returns a document of at most limit bytes as parse reads it. It is
// parsed once a run, and once for the recognition before the run where both have
// one Reader: everybody gets the same value, which nobody may change. A document
// is known by its name and by T, so a type has one parser.
func Parsed[T any](ctx context.Context, s Source, name string, limit int64, parse func(name string, data []byte) (T, error)) (T, error) {
	var none T
	data, r, err := s.from(ctx, name, limit)
	if err != nil {
		return none, err
	}
	key := parsedKey{name, reflect.TypeFor[T]()}
	r.mu.Lock()
	d := r.parsed[key]
	if d == nil {
		d = new(parsedDocument)
		if r.parsed == nil {
			r.parsed = map[parsedKey]*parsedDocument{}
		}
		r.parsed[key] = d
	}
	r.mu.Unlock()
	d.once.Do(func() {
		r.count.parsed(name)
		d.value, d.err = parse(name, data)
	})
	v, ok := d.value.(T)
	if d.err != nil || !ok {
		return none, d.err
	}
	return v, nil
}
