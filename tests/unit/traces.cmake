# Tests of traces/, included by CMakeLists.txt of this folder.
evictsim_add_test(NAME traces_checksum LABELS unit SOURCES traces_checksum_test.cpp LIBS evictsim::traces)
evictsim_add_test(NAME traces_half LABELS unit SOURCES traces_half_test.cpp LIBS evictsim::traces)
evictsim_add_test(NAME traces_round_trip LABELS unit SOURCES traces_round_trip_test.cpp LIBS evictsim::traces hdf5::hdf5)
evictsim_add_test(NAME traces_bad_input LABELS unit SOURCES traces_bad_input_test.cpp LIBS evictsim::traces hdf5::hdf5)
evictsim_add_test(NAME traces_slice_synth LABELS unit SOURCES traces_slice_synth_test.cpp LIBS evictsim::traces hdf5::hdf5)
evictsim_add_test(NAME traces_merge LABELS unit SOURCES traces_merge_test.cpp LIBS evictsim::traces hdf5::hdf5)
