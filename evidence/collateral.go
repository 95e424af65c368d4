package evidence

import (
	"errors"

	"github.com/retally/retally/evidence/tdxquote"
)

// TakeCollateral reads collateral in one file into a request, see
// TakeCollateralFiles.
func (r *Request) TakeCollateral(name string, data []byte) error {
	return r.TakeCollateralFiles(tdxquote.CollateralFile{Name: name, Data: data})
}

// TakeCollateralFiles reads collateral into a request. It comes from a stranger, as
// a quote does: where a document in it is broken, that is a failed check of
// "authentic". An error says that the files are no collateral in a form that is
// known, or not all of it.
func (r *Request) TakeCollateralFiles(files ...tdxquote.CollateralFile) (err error) {
	if r.Collateral, err = tdxquote.ReadCollateral(files...); err == nil {
		return nil
	}
	if layout := (*tdxquote.LayoutError)(nil); errors.As(err, &layout) {
		return err
	}
	r.AuthenticChecks.Fail("collateral", err.Error())
	r.collateralBroken = true
	return nil
}
