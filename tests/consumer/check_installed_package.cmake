# Does the installed package serve a project of its own: every public header, every policy, a replay, the program,
# plug-ins?

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${status}): ${command}\n${output}")
  endif()
  message(STATUS "${output}")
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${SCRATCH}/prefix)
# A package works wherever it is put, so it is moved before it is used.
file(RENAME ${SCRATCH}/prefix ${SCRATCH}/moved)

run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/project -B ${SCRATCH}/build -G ${GENERATOR}
  -D CMAKE_PREFIX_PATH=${SCRATCH}/moved -D CMAKE_CXX_COMPILER=${CXX_COMPILER}
  -D CMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER} -D EVICTSIM_EXPECTED_VERSION=${VERSION})
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run(${SCRATCH}/build/consumer ${SCRATCH}/consumer.h5)
run(${SCRATCH}/moved/bin/evictsim trace verify ${SCRATCH}/consumer.h5)
# Data that comes with the package is found wherever it is put.
if(EXISTS ${SCRATCH}/moved/bin/evictsim-capture)
  run(${SCRATCH}/moved/bin/evictsim-capture probe --no-device --base l40s -o ${SCRATCH}/l40s.json)
endif()

# Plug-ins of another project, loaded by the installed program.
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/plugin -B ${SCRATCH}/plugin -G ${GENERATOR}
  -D CMAKE_PREFIX_PATH=${SCRATCH}/moved -D CMAKE_CXX_COMPILER=${CXX_COMPILER}
  -D CMAKE_CXX_COMPILER_LAUNCHER=${CXX_LAUNCHER})
run(${CMAKE_COMMAND} --build ${SCRATCH}/plugin)
run(${SCRATCH}/moved/bin/evictsim replay ${SCRATCH}/consumer.h5 --plugin ${SCRATCH}/plugin/libvalue_norm.so
  --policy value_norm,knorm --budget 0.5)
execute_process(COMMAND ${SCRATCH}/moved/bin/evictsim policies --plugin ${SCRATCH}/plugin/libother_version.so
  RESULT_VARIABLE status ERROR_VARIABLE output OUTPUT_QUIET)
if(NOT status EQUAL 1 OR NOT output MATCHES "was built for evictsim 0.0.9")
  message(FATAL_ERROR "a plug-in of another version must be refused (${status}): ${output}")
endif()
file(REMOVE_RECURSE ${SCRATCH})
