#pragma once
/// \file
/// What a report cannot show, and why.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace evictsim::analysis {

struct MissingPart {
  std::string section;                   ///< summary, curves, where, tokens, dilution, memory, plan or provenance
  std::string part;                      ///< of the section; empty: all of it
  std::optional<std::size_t> run, plan;  ///< place in the report; neither: of all files
  std::string why;
};

using MissingParts = std::vector<MissingPart>;

}  // namespace evictsim::analysis
