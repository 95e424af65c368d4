package evidence

import (
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/jsondoc"
)

// TakeCollateral reads collateral into a request. It comes from a stranger, as a
// quote does: where it is broken, that is a failed check of "authentic". An
// error says that the file is no collateral at all.
func (r *Request) TakeCollateral(name string, data []byte) (err error) {
	if r.Collateral, err = tdxquote.ParseCollateral(name, data); err == nil {
		return nil
	}
	if !isCollateral(data) {
		return err
	}
	r.AuthenticChecks.Fail("collateral", err.Error())
	r.collateralBroken = true
	return nil
}

// isCollateral reports whether a file is meant to be collateral, whatever may be
// wrong with it.
func isCollateral(data []byte) bool {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: tdxquote.MaxCollateral})
	return err == nil && doc.Kind == jsondoc.Object && (doc.Get("tcb_info") != nil || doc.Get("qe_identity") != nil)
}
