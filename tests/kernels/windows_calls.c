/* Loads an image of kernels as edgellama does on Windows, and repeats calls that were recorded.

   In the current folder: "image"; "stubs", places in it that take a function's address; "calls",
   numbers of calls and where their kernels begin; N.before and N.after, the memory of a call. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#define NUM_KEPT 10 /* xmm6 to xmm15 belong to whoever calls. */

static char *contents(const char *name, long long *size) {
  FILE *file = fopen(name, "rb");
  if (!file) exit(2);
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char *memory = malloc(*size);
  fread(memory, 1, *size, file);
  fclose(file);
  return memory;
}

static void call(void *kernel, void *record, long long thread, double *kept) {
  __asm__ volatile(
      "movsd (%0), %%xmm6\n movsd 8(%0), %%xmm7\n movsd 16(%0), %%xmm8\n movsd 24(%0), %%xmm9\n"
      "movsd 32(%0), %%xmm10\n movsd 40(%0), %%xmm11\n movsd 48(%0), %%xmm12\n"
      "movsd 56(%0), %%xmm13\n movsd 64(%0), %%xmm14\n movsd 72(%0), %%xmm15\n"
      "mov %2, %%rcx\n mov %3, %%rdx\n xor %%r8, %%r8\n"
      "mov %%rsp, %%rbx\n and $-16, %%rsp\n sub $32, %%rsp\n call *%1\n mov %%rbx, %%rsp\n"
      "movsd %%xmm6, (%0)\n movsd %%xmm7, 8(%0)\n movsd %%xmm8, 16(%0)\n movsd %%xmm9, 24(%0)\n"
      "movsd %%xmm10, 32(%0)\n movsd %%xmm11, 40(%0)\n movsd %%xmm12, 48(%0)\n"
      "movsd %%xmm13, 56(%0)\n movsd %%xmm14, 64(%0)\n movsd %%xmm15, 72(%0)\n" ::"r"(kept),
      "r"(kernel), "r"(record), "r"(thread)
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3",
        "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
        "xmm14", "xmm15", "memory", "cc");
}

static char *memory_at(long long address, long long size) {
  char *memory =
      VirtualAlloc((void *)address, size, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
  if (!memory) exit(3);
  return memory;
}

int main(int count, char **arguments) {
  long long code_at = atoll(arguments[1]), code_bytes = atoll(arguments[2]);
  long long arena_at = atoll(arguments[3]), size, place, number, threads;
  char *image = contents("image", &size), name[256];
  FILE *stubs = fopen("stubs", "r"), *calls = fopen("calls", "r");
  HMODULE library = LoadLibraryA("ntdll.dll");
  while (fscanf(stubs, "%255s %lld", name, &place) == 2) {
    void *function = (void *)GetProcAddress(library, name);
    if (!function) return 4;
    memcpy(image + place, &function, sizeof function);
  }
  char *code = memory_at(code_at, size);
  memcpy(code, image, size);
  DWORD before;
  if (!VirtualProtect(code, code_bytes, PAGE_EXECUTE_READ, &before)) return 5;
  if (size > code_bytes &&
      !VirtualProtect(code + code_bytes, size - code_bytes, PAGE_READONLY, &before))
    return 5;
  FlushInstructionCache(GetCurrentProcess(), code, code_bytes);
  while (fscanf(calls, "%lld %lld %lld", &number, &place, &threads) == 3) {
    char file[64];
    double kept[NUM_KEPT], found[NUM_KEPT];
    snprintf(file, sizeof file, "%lld.before", number);
    char *start = contents(file, &size), *arena = memory_at(arena_at, size);
    snprintf(file, sizeof file, "%lld.after", number);
    char *end = contents(file, &size);
    memcpy(arena, start, size);
    for (int i = 0; i < NUM_KEPT; i++) kept[i] = found[i] = number + i + 0.5;
    for (long long thread = threads - 1; thread >= 0; thread--)
      call(code + place, arena, thread, found);
    printf("%lld %s %s\n", number, memcmp(arena, end, size) ? "differs" : "same",
           memcmp(kept, found, sizeof kept) ? "lost" : "kept");
    VirtualFree(arena, 0, MEM_RELEASE);
  }
  return 0;
}
