package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// collateral reads Intel's collateral: a file with all of it, several files, or
// what lies directly in a folder.
func (r *stageRun) collateral(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	if len(e.Collateral) == 0 {
		return nil
	}
	var files []tdxquote.CollateralFile
	for _, name := range e.Collateral {
		if info, err := os.Stat(r.in.Path(name)); err == nil && info.IsDir() {
			if err := r.collateralFolder(ctx, name); err != nil {
				return err
			}
			files = append(files, r.folders[name]...)
		} else {
			data, err := r.in.ReadFile(ctx, name, tdxquote.MaxCollateral)
			if err != nil {
				return err
			}
			files = append(files, tdxquote.CollateralFile{Name: name, Data: data})
		}
		from.authentic = append(from.authentic, pipeline.FromFile(name))
	}
	if err := q.TakeCollateralFiles(files...); err != nil {
		// The room names the file, or all of them.
		text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "read "), e.Collateral[0]+": ")
		return &pipeline.InputError{Op: "read collateral", File: e.Collateral[0], Err: errors.New(text), Hint: "wanted is " + tdxquote.CollateralLayout}
	}
	return nil
}

// collateralFolder reads the files of a folder. What is no regular file is an
// error: nobody could say what it hides.
func (r *stageRun) collateralFolder(ctx context.Context, name string) error {
	if _, done := r.folders[name]; done {
		return nil
	}
	return r.in.ReadTree(name, func(dir string) (digest.Digest, int64, error) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return digest.Digest{}, 0, pipeline.NewInputError("read collateral", name, err)
		}
		if len(entries) == 0 || len(entries) > tdxquote.MaxCollateralFiles {
			return digest.Digest{}, 0, &pipeline.InputError{Op: "read collateral", File: name, Err: fmt.Errorf("holds %d files, want 1 to %d", len(entries), tdxquote.MaxCollateralFiles)}
		}
		var files []tdxquote.CollateralFile
		h, size := digest.SHA256.New(), int64(0)
		for _, x := range entries {
			if err := ctx.Err(); err != nil {
				return digest.Digest{}, 0, err
			}
			file := filepath.ToSlash(filepath.Join(name, x.Name()))
			if !x.Type().IsRegular() {
				return digest.Digest{}, 0, &pipeline.InputError{Op: "read collateral", File: file, Err: fmt.Errorf("is no regular file"), Hint: "give a folder with the files of the collateral alone"}
			}
			data, err := readSmall(filepath.Join(dir, x.Name()), file)
			if err != nil {
				return digest.Digest{}, 0, err
			}
			files = append(files, tdxquote.CollateralFile{Name: file, Data: data})
			sum := digest.SHA256.Sum(data)
			fmt.Fprintf(h, "%q %s\n", x.Name(), sum.Hex())
			size += int64(len(data))
		}
		r.folders[name] = files
		return digest.FromHash(digest.SHA256, h), size, nil
	})
}

func readSmall(path, name string) ([]byte, error) {
	f, _, err := run.OpenRegular(name, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, tdxquote.MaxCollateral+1)) // the reader of collateral refuses more
	if err != nil {
		return nil, pipeline.NewInputError("read collateral", name, err)
	}
	return data, nil
}
