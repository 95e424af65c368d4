package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// openDir lists a layout folder. Nothing outside of it is ever opened, and
// nothing in it that is no regular file.
func openDir(ctx context.Context, name, dir string, opts Options) (*Source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	limits := opts.Limits.orDefault()
	f := newFiles()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if p == "." {
			return nil
		}
		if len(f.order) >= limits.Entries {
			return fmt.Errorf("more than %d files", limits.Entries)
		}
		e := &entry{name: p}
		switch t := d.Type(); {
		case t.IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			e.size = info.Size()
		case t.IsDir():
			e.typ = folderEntry
		case t&fs.ModeSymlink != 0:
			e.typ = symlinkEntry
		default:
			e.typ = otherEntry
		}
		f.names[p] = e
		f.order = append(f.order, p)
		return nil
	})
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	f.open = func(_ context.Context, e *entry) (io.ReadCloser, error) {
		// The folder may have changed since it was listed.
		info, err := root.Lstat(e.name)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no regular file any more", e.name)
		}
		file, err := root.Open(e.name)
		if err != nil {
			return nil, err
		}
		now, err := file.Stat()
		if err == nil && !os.SameFile(info, now) {
			err = fmt.Errorf("%s was replaced while it was opened", e.name)
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}
	s, err := fileSource(ctx, name, f, Layout)
	if err != nil {
		root.Close()
		return nil, err
	}
	s.close = root.Close
	return s, nil
}
