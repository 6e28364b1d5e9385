package replica

import "fmt"

// partitionBlob is what the checkpoint holds of a partition (docs/format/checkpoint.md).
type partitionBlob struct {
	logStart int64
	segments []byte
	observed []byte
}

// partitionBlobVersion is what is written. Version 1, which is read too, does not say when a producer's last marker was.
const partitionBlobVersion = 2

// encode returns the blob up to the observer's part, which is appended later, off the apply path.
func (p *partitionBlob) encode(ps *producers) []byte {
	b := make([]byte, 0, 64+len(p.segments)+len(ps.byID)*160)
	b = append(b, partitionBlobVersion)
	b = be64(b, uint64(p.logStart))
	b = be32(b, uint32(len(p.segments)))
	b = append(b, p.segments...)
	return ps.encode(b)
}

// decodePartitionBlob reads a blob, producers into ps. A nil observed means that there was none.
func decodePartitionBlob(blob []byte, ps *producers) (partitionBlob, error) {
	d := decoder{b: blob}
	v := d.u8()
	if v < 1 || v > partitionBlobVersion {
		return partitionBlob{}, fmt.Errorf("partition state version %d, this program reads 1 to %d: %w", v, partitionBlobVersion, ErrVersion)
	}
	var p partitionBlob
	p.logStart = int64(d.u64())
	p.segments = d.bytes(int(d.u32()))
	ps.decode(&d, v)
	if n := int(d.u32()); n > 0 {
		p.observed = d.bytes(n)
	}
	if err := d.end(); err != nil {
		return p, fmt.Errorf("partition state: %w", err)
	}
	return p, nil
}
