#pragma once
/// \file
/// Random weights and tables for every registered policy that reads some, so that the tests of all policies can run
/// them.

#include <string>

#include "tests/support/memory_trace.h"

namespace evictsim::test {

/// A file of random networks and budget tables that fit the layers of one shape of trace.
class LearnedWeights {
 public:
  /// Writes the file into the working directory.
  explicit LearnedWeights(const TraceShape& shape);
  /// Unlinks the file; policies that read it already keep it open.
  ~LearnedWeights();
  LearnedWeights(const LearnedWeights&) = delete;
  LearnedWeights& operator=(const LearnedWeights&) = delete;

  /// The policy `name(argument)` with what it must read: "lukv" becomes "lukv(table='...')". `argument` may be empty.
  [[nodiscard]] std::string policy(const std::string& name, const std::string& argument = {}) const;

 private:
  std::string path_;
};

}  // namespace evictsim::test
