// How a call of the core says that it failed. No exception crosses a header of the core.
#pragma once

#include <string>
#include <utility>

namespace fleet {

struct Status {
  enum Kind {
    kOk,
    kNoMemory,  // the system gave no memory
    kIo,        // a system call failed: `error_number` is its errno
    kDamaged,   // a file that is truncated, corrupt or foreign
    kInvalid,   // arguments that do not fit the table
    kFull,      // new rows would take more memory than the process may
  };
  Kind kind = kOk;
  int error_number = 0;
  std::string text;  // what and where
  std::string path;  // of a file, where the caller does not know it

  bool ok() const { return kind == kOk; }
  static Status no_memory(std::string text) { return {kNoMemory, 0, std::move(text), {}}; }
  static Status io(int error_number, std::string text) { return {kIo, error_number, std::move(text), {}}; }
  static Status damaged(std::string text) { return {kDamaged, 0, std::move(text), {}}; }
  static Status full(std::string text) { return {kFull, 0, std::move(text), {}}; }
  static Status invalid(std::string text) { return {kInvalid, 0, std::move(text), {}}; }
};

}  // namespace fleet
