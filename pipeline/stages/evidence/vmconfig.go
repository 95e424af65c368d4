package evidence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/tdxmeasure"
)

// ErrNoVMConfig says that a vm_config is wanted, and none is given nor found
// beside the quote.
var ErrNoVMConfig = errors.New("no vm_config beside the quote")

// vmConfigLimit bounds a vm_config, and the reply that holds one, in bytes.
const vmConfigLimit = 1 << 20

// AddVMConfig adds to a question what dstack's vm_config says of its
// registers. given is the document, or the reply that holds it; nil stands for
// the one beside the quote. imageHash is the os_image_hash that the caller
// expects; where it is zero, the document is the sender's word and no more.
// An error is about the document that was given; what lies beside the quote is
// evidence, whose faults are checks.
func AddVMConfig(ctx context.Context, r *Question, given *evidence.File, imageHash digest.Digest) error {
	name, data := r.Evidence.Name+" /vm_config", r.Evidence.VMConfig
	if given != nil {
		name, data = given.Name, innerVMConfig(given.Data)
	}
	asked := given != nil || !imageHash.IsZero()
	switch {
	case data == nil && asked:
		return ErrNoVMConfig
	case data == nil:
		return nil
	}
	set, checks, err := VMConfigSet(ctx, name, data, imageHash, r.Field)
	var list verdict.List
	switch {
	case err != nil && (given != nil || ctx.Err() != nil):
		return err
	case err != nil && asked:
		list.Fail("vm_config", err.Error())
	case err != nil:
		list.Note("vm_config", err.Error())
	}
	r.AskClaimed = r.AskClaimed || asked
	r.Checks = append(append(r.Checks, list...), checks...)
	if set != nil {
		r.Sets = append(r.Sets, *set)
	}
	return nil
}

// innerVMConfig takes vm_config out of a reply that holds it as text.
func innerVMConfig(data []byte) []byte {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: vmConfigLimit})
	if err != nil {
		return data
	}
	if inner := doc.Get("vm_config"); inner != nil && inner.Kind == jsondoc.String {
		return []byte(inner.Text)
	}
	return data
}

// VMConfigSet recomputes MRTD and RTMR0 to RTMR2 of a dstack machine
// from its vm_config. The document comes from whoever sent the quote, so the
// set only counts if the caller says which image is expected (imageHash, the
// os_image_hash; zero: none). The shape of the machine, which goes into RTMR0,
// stays the sender's word and is named. The set is nil if the document does not
// suffice; the checks say why. field is how the user gives an input.
func VMConfigSet(ctx context.Context, file string, data []byte, imageHash digest.Digest, field func(name, value string) string) (*evidence.ReferenceSet, []verdict.Check, error) {
	const name = "vm_config"
	var checks verdict.List
	c, err := tdxmeasure.ParseDstackConfig(file, data)
	if err != nil {
		return nil, nil, err
	}
	if !imageHash.IsZero() {
		claimed, err := digest.ParseHex(digest.SHA256, strings.ToLower(c.OSImageHash))
		checks.Judge("os-image-hash", err == nil && claimed == imageHash, file+" names the expected image, os_image_hash "+imageHash.Hex(),
			fmt.Sprintf("%s says os_image_hash %q, expected is %s", file, c.OSImageHash, imageHash.Hex()))
	}
	for _, p := range c.Problems {
		checks.Fail(name, p)
	}
	if c.Measurement == nil {
		checks.Note(name, file+" has no measurement document (tdx_measurement), so no register is recomputed from it; measure the image's files and give the result ("+field("measured", "FILE")+")")
		return nil, checks, nil
	}
	source, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		return nil, nil, err
	}
	p, err := c.Measurement.Profile()
	var r *tdxmeasure.Result
	if err == nil {
		r, err = c.Measurement.Measure(ctx, p, c, source)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		checks.Note(name, "no register could be recomputed from "+file+": "+err.Error())
		return nil, checks, nil
	}
	set := &evidence.ReferenceSet{
		Group: name, Name: fmt.Sprintf("the image %.16s… on a machine that its sender describes with %d vCPUs, %d MiB, QEMU %s", c.OSImageHash, c.VCPUs, c.Memory>>20, cmp.Or(c.QEMU, "unknown")),
		Registers: map[evidence.Register]digest.Digest{evidence.MRTD: r.MRTD, evidence.RTMR0: r.RTMR[0], evidence.RTMR1: r.RTMR[1], evidence.RTMR2: r.RTMR[2]},
	}
	if imageHash.IsZero() {
		set.Claimed = fmt.Sprintf("the document comes from the sender; say which image you expect (%s; the sender's is %s)", field("os_image_hash", "HEX"), c.OSImageHash)
	}
	return set, checks, nil
}
