# Tests of traces/, included by CMakeLists.txt of this folder.
evictsim_add_test(NAME trace_mutation LABELS fuzz SOURCES trace_mutation_test.cpp LIBS evictsim::traces hdf5::hdf5)
