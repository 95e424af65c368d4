package qtest

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// Program is the QEMU that is asked where the user names no other.
const Program = "qemu-system-x86_64"

// Sources asks the first of several programs that makes the wanted family's
// tables.
type Sources struct {
	list  []*Source
	asked atomic.Pointer[Source]
}

// NewSources asks programs in this order.
func NewSources(programs ...string) *Sources {
	q := new(Sources)
	for _, p := range programs {
		q.list = append(q.list, &Source{Program: p})
	}
	return q
}

// Name says which QEMU answered.
func (q *Sources) Name() string {
	if s := q.asked.Load(); s != nil {
		return s.Name()
	}
	return "stock QEMU"
}

// Tables asks for a shape's tables.
func (q *Sources) Tables(ctx context.Context, s acpi.Shape) (*acpi.Blobs, error) {
	var errs []error
	for _, source := range q.list {
		b, err := source.Tables(ctx, s)
		var other *FamilyError
		switch {
		case err == nil:
			q.asked.Store(source)
			return b, nil
		case !errors.As(err, &other):
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
