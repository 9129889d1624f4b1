"""Runs the reference programs of tests/golden/references and compares what they write with what is stored. Used by
references_test.cpp.

    references.py SOURCE       the root of the source tree; writes to the working directory
"""
import os
import sys


def main(source):
    golden = os.path.join(source, "tests", "golden")
    data = os.path.join(golden, "data")
    sys.dont_write_bytecode = True  # the source tree stays as it is
    sys.path.insert(0, os.path.join(golden, "references"))
    import decode_time
    import kv_codecs
    import kvquant
    import learned
    import packets
    import records
    import retrieval
    import structure
    from golden_file import differences

    learned.main(".")
    decode_time.main(data, ".")
    structure.main(data, ".")
    made = [name + ".h5" for name in learned.TRACES]
    made += [f"references-learned.{name}.golden.h5" for name in learned.TRACES]
    made += [f"references-decode.{name}.golden.h5" for name in decode_time.TRACES]
    made += [f"references-structure.{name}.golden.h5" for name in structure.TRACES]
    placements = "references-placements.golden.h5"
    if os.path.exists(placements):
        os.remove(placements)
    retrieval.main(placements)
    kv_codecs.main(placements)
    records.main("references-records.golden.h5")
    packets.main(".")
    kvquant.main(".")
    made += [name + ".h5" for program in (packets, kvquant) for name in program.TRACES]
    made += [placements] + [f"references-{name}.golden.h5" for name in ("records", "packets", "kvquant")]
    faults = [fault for name in made for fault in differences(os.path.join(data, name), name)]
    for fault in faults:
        print(fault)
    return len(faults) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
